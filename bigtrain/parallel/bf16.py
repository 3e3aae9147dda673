"""Whether bf16 has hardware behind it: a CPU without AVX-512 BF16 or AMX emulates it, slowly."""

import torch

from bigtrain.parallel.device import measure_product_rate, runs_on_cpu

SLOW = 2.0
"""Warn if fp32 matrix products are at least this many times faster than bf16 ones."""
_SIZE = 256
_SECONDS = 0.01
_ROUNDS = 6


def find_slow_bf16(device: torch.device) -> str | None:
    """Measures matrix products in fp32 and bf16 for about 0.06 s each, and renders a warning.

    Args:
        device: Where the run computes; a GPU is not measured.

    Returns:
        One line with both rates where bf16 is slow; else None.
    """
    if not runs_on_cpu(device):
        return None
    rates = {torch.float32: 0.0, torch.bfloat16: 0.0}
    for dtype in _ROUNDS * [*rates]:
        # Both types in turn, and the best rate of each: other load must not look like emulation.
        rate = measure_product_rate(device, dtype, size=_SIZE, seconds=_SECONDS)
        rates[dtype] = max(rates[dtype], rate)
    return render_slow_bf16(fp32=rates[torch.float32], bf16=rates[torch.bfloat16])


def render_slow_bf16(*, fp32: float, bf16: float) -> str | None:
    """Renders the warning for two rates in FLOP/s; None where bf16 is not slow."""
    if fp32 < SLOW * bf16:
        return None
    return (
        f"train.precision=bf16 is slow on this CPU: {bf16 / 1e9:,.1f} GFLOP/s in bf16 and "
        f"{fp32 / 1e9:,.1f} in fp32, {fp32 / bf16:.1f} times as many (without AVX-512 BF16 or AMX, "
        "bf16 is emulated); train.precision=fp32 is faster"
    )
