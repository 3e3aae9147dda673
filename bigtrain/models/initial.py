"""Initial weights: each value is a function of (seed, global name, global index).

Therefore every layout starts with the same model, and each rank computes only its own part.
"""

import hashlib
import math
from collections.abc import Sequence

import torch

from bigtrain.config.model import ModelConfig

_BLOCK_ELEMENTS = 1 << 20


@torch.no_grad()
def fill_initial_values(
    view: torch.Tensor,
    *,
    name: str,
    global_shape: Sequence[int],
    offset: Sequence[int],
    model: ModelConfig,
    seed: int,
) -> None:
    """Writes the initial values of one box of a global tensor.

    Weights are normal with model.init_std, output projections divided by sqrt(2·layers) (Radford
    et al. 2019, section 2.3); norms start as the identity and biases as zero.

    Args:
        view: The box, written in place.
        name: Global name of the tensor.
        global_shape: Shape of the global tensor.
        offset: Start of the box in the global tensor.
        model: Defines the standard deviation.
        seed: The run's seed.
    """
    if name.endswith("bias"):
        view.zero_()
    elif name.endswith(("layernorm.weight", "layer_norm_weight", "layer_norm.weight")):
        view.fill_(1.0)
    else:
        assert name.endswith(".weight"), f"no rule for the initial values of {name}"
        residual = name.endswith(("linear_proj.weight", "linear_fc2.weight"))
        std = model.init_std / (math.sqrt(2 * model.num_layers) if residual else 1.0)
        _fill_normal(view, _key(seed, name), global_shape, offset, std)


def _fill_normal(
    view: torch.Tensor, key: int, global_shape: Sequence[int], offset: Sequence[int], std: float
) -> None:
    inner = math.prod(view.shape[1:])
    rows = max(1, _BLOCK_ELEMENTS // max(1, inner))
    for first in range(0, view.shape[0], rows):
        part = view[first : first + rows]
        start = (offset[0] + first, *offset[1:])
        index = _global_indices(part.shape, global_shape, start, view.device)
        part.copy_(_normal(index, key) * std)


def _global_indices(
    shape: Sequence[int], global_shape: Sequence[int], offset: Sequence[int], device: torch.device
) -> torch.Tensor:
    """The row-major indices of a box's elements in the global tensor."""
    index = torch.zeros((1,) * len(shape), dtype=torch.int64, device=device)
    for axis, (size, start) in enumerate(zip(shape, offset, strict=True)):
        stride = math.prod(global_shape[axis + 1 :])
        along = torch.arange(start, start + size, dtype=torch.int64, device=device) * stride
        index = index + along.view([-1 if other == axis else 1 for other in range(len(shape))])
    return index


def _normal(index: torch.Tensor, key: int) -> torch.Tensor:
    """Maps counters to standard normal values, in fp32.

    A 64-bit mix of each counter (Steele et al., "Fast splittable pseudorandom number generators",
    OOPSLA 2014, figure 15) gives two uniform values, and Box–Muller one normal value. The transform
    runs in fp64, so that all devices give the same values after rounding.
    """
    bits = _mix(index * _signed(0x9E3779B97F4A7C15) + key)
    high = (bits >> 32) & 0xFFFFFFFF
    low = bits & 0xFFFFFFFF
    radius = torch.sqrt(-2.0 * torch.log((high.double() + 0.5) / 2**32))
    return (radius * torch.cos((2 * math.pi / 2**32) * low.double())).float()


def _mix(bits: torch.Tensor) -> torch.Tensor:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ _shift_right(bits, shift)) * _signed(factor)
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: torch.Tensor, count: int) -> torch.Tensor:
    # torch's right shift of int64 copies the sign bit; the mask makes the shift logical.
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _key(seed: int, name: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
