"""The global norm of the gradient over all ranks, for clipping and for the guard."""

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist

_ROW_ELEMENTS = 4096
"""Number of squares summed in fp32; these sums are then added in fp64. The relative error is about
1e-9. That of torch's fp32 norm of a complete matrix on CPU is about 1e-4 and depends on the layout.
"""


def global_norm(gradients: Iterable[torch.Tensor], *, device: torch.device) -> float:
    """Computes the Euclidean norm of a gradient that is spread over all ranks; all must call it.

    Args:
        gradients: This rank's flat parts; each element must be passed on exactly one rank.
        device: The device of the all-reduce.

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
    in_rows = flat.numel() // _ROW_ELEMENTS * _ROW_ELEMENTS
    rows = torch.linalg.vector_norm(flat[:in_rows].view(-1, _ROW_ELEMENTS), dim=1)
    rest = torch.linalg.vector_norm(flat[in_rows:])
    return rows.double().square().sum() + rest.double().square()
