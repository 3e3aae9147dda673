"""Measures whether bf16 is slow: a CPU without AVX-512 BF16 or AMX emulates it."""

import torch

from bigtrain.parallel.device import measure_product_rate, runs_on_cpu

SLOW_RATIO = 2.0
"""Warn if fp32 matrix products are at least this many times faster than bf16 ones."""
_SIZE = 256
_SECONDS = 0.01
_ROUNDS = 6


def find_slow_bf16(device: torch.device) -> str | None:
    """Measures matrix products in fp32 and bf16 for about 0.06 s each.

    Args:
        device: The device of the run; a GPU is not measured.

    Returns:
        One line with both rates if bf16 is slow; otherwise None.
    """
    if not runs_on_cpu(device):
        return None
    rates = {torch.float32: 0.0, torch.bfloat16: 0.0}
    for dtype in _ROUNDS * [*rates]:
        # The dtypes alternate and only the best rate of each counts, so that other load on the
        # machine is not mistaken for emulation.
        rate = measure_product_rate(device, dtype, size=_SIZE, seconds=_SECONDS)
        rates[dtype] = max(rates[dtype], rate)
    return render_slow_bf16(fp32=rates[torch.float32], bf16=rates[torch.bfloat16])


def render_slow_bf16(*, fp32: float, bf16: float) -> str | None:
    """Renders the warning for two rates in FLOP/s; None if bf16 is not slow."""
    if fp32 < SLOW_RATIO * bf16:
        return None
    return (
        f"train.precision=bf16 is slow on this CPU: {bf16 / 1e9:,.1f} GFLOP/s in bf16 and "
        f"{fp32 / 1e9:,.1f} in fp32, {fp32 / bf16:.1f} times as many (without AVX-512 BF16 or AMX, "
        "bf16 is emulated); train.precision=fp32 is faster"
    )
