"""The global norm of the gradient over all ranks, for clipping and for the guard."""

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist

_ROW = 4096
"""How many squares are summed in fp32; these sums are then added in fp64. The relative error is
about 1e-9. With torch's fp32 norm of a whole matrix on CPU it is about 1e-4, and depends on the
layout."""


def global_norm(gradients: Iterable[torch.Tensor], *, device: torch.device) -> float:
    """The Euclidean norm of a gradient whose parts lie on all ranks; every rank calls it.

    Args:
        gradients: The flat parts that this rank counts; every element is counted on one rank only.
        device: Where the ranks reduce.

    Returns:
        The same number on every rank; infinite if it overflows or an element is NaN.
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
