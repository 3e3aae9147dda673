"""The gradient's norm over all ranks: what clipping goes by, and what says that a step is off."""

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist

_ROW = 4096
"""Elements whose squares are summed in fp32. Over a whole matrix torch's sum on CPU is off by
parts in 10⁴, and differently in every layout; over rows, and rows in fp64, by parts in 10⁹."""


def global_norm(gradients: Iterable[torch.Tensor], *, device: torch.device) -> float:
    """The Euclidean norm of a gradient whose parts lie on all ranks; every rank calls it.

    Args:
        gradients: The flat parts that are counted on this rank: each element on one rank only.
        device: Where the ranks reduce.

    Returns:
        The same number on every rank; infinite where it overflows or an element is no number.
    """
    total = torch.zeros((), dtype=torch.float64, device=device)
    for gradient in gradients:
        total += _sum_of_squares(gradient).to(device)
    dist.all_reduce(total)
    norm = math.sqrt(total.item())
    return norm if math.isfinite(norm) else math.inf


def _sum_of_squares(flat: torch.Tensor) -> torch.Tensor:
    whole = flat.numel() // _ROW * _ROW
    rows = torch.linalg.vector_norm(flat[:whole].view(-1, _ROW), dim=1)
    rest = torch.linalg.vector_norm(flat[whole:])
    return rows.double().square().sum() + rest.double().square()
