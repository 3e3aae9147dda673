"""Chooses CUDA or CPU; all code that depends on the choice is here."""

import os
import random
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bigtrain.config import ConfigError
from bigtrain.config.device_rules import DeviceKind
from bigtrain.environment import (
    Ranks,
    enable_huge_pages,
    record_nccl_calls,
    requested_threads,
    set_deepspeed_variables,
)
from bigtrain.parallel import cpu
from bigtrain.parallel.buckets import fill_buckets

_BLOCK_ELEMENTS = 2**26


def choose_device(requested: str, ranks: Ranks) -> torch.device:
    """Chooses this rank's device and prepares it; call it before DeepSpeed is imported.

    Args:
        requested: ``auto``, ``cpu`` or ``cuda``.
        ranks: The rank of this process.

    Raises:
        ConfigError: CUDA is selected, but this machine has no GPU for this local rank.
    """
    kind = device_kind(requested)
    set_deepspeed_variables(kind, ranks)
    if kind == "cpu":
        enable_huge_pages()
        torch.set_num_threads(_threads_per_rank(ranks))
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if ranks.local_rank >= count:
        raise ConfigError(
            f"parallel.device={requested}: local rank {ranks.local_rank} has no GPU, because this "
            f"machine has {count}; start fewer processes or set parallel.device=cpu"
        )
    torch.cuda.set_device(ranks.local_rank)
    record_nccl_calls()
    return torch.device("cuda", ranks.local_rank)


def device_kind(requested: str) -> DeviceKind:
    """The kind of device that a value of parallel.device selects on this machine."""
    use_cuda = requested == "cuda" or (requested == "auto" and torch.cuda.is_available())
    return "cuda" if use_cuda else "cpu"


def communication_backend(device: torch.device) -> str:
    """The torch.distributed backend for collectives on ``device``."""
    return "nccl" if device.type == "cuda" else "gloo"


def runs_on_cpu(device: torch.device) -> bool:
    """Whether ``device`` is the CPU, so that megatron-core's CUDA calls must be redirected."""
    return device.type == "cpu"


def keep_freed_memory(device: torch.device) -> None:
    """On CPU, keeps freed memory for later steps; call it when model and optimizer exist."""
    if runs_on_cpu(device):
        cpu.keep_freed_memory()


def bound_device(device: torch.device) -> torch.device | None:
    """The GPU to which new process groups are bound; None on CPU."""
    return device if device.type == "cuda" else None


def seed_default_generators(seed: int, device: torch.device) -> None:
    """Seeds Python's and torch's default generators on this rank."""
    random.seed(seed)
    torch.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def has_block_attention(device: torch.device) -> bool:
    """Whether attention within documents uses flex_attention and not a dense mask."""
    return device.type == "cuda"


def synchronize(device: torch.device) -> None:
    """Waits until the device has done its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """The vendor's name of the device; ``cpu`` on CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory since the start or the last reset.

    On a GPU it counts torch's tensors; on CPU the resident memory of the process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory(device: torch.device) -> bool:
    """Resets ``peak_memory_bytes`` to the memory in use now; returns False if it cannot."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak.
    except OSError:
        return False
    return True


def host_memory(shapes: Sequence[torch.Size], device: torch.device) -> list[torch.Tensor]:
    """Allocates host memory for fp32 tensors, pinned for fast copies if ``device`` is a GPU.

    Consecutive tensors share blocks of at most ``_BLOCK_ELEMENTS``. torch rounds each allocation of
    pinned memory up to a power of two, which for single tensors could double the memory.
    """
    memory = []
    for block in fill_buckets(shapes, elements=_BLOCK_ELEMENTS):
        sizes = [shape.numel() for shape in block]
        values = torch.empty(sum(sizes), dtype=torch.float32, pin_memory=device.type == "cuda")
        memory += [v.view(shape) for v, shape in zip(values.split(sizes), block, strict=True)]
    return memory


def copy_to_host(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], device: torch.device) -> None:
    """Copies each pair's first tensor into its second, a host tensor, while the device computes.

    Returns when all copies are complete. Any thread may call it. The caller ensures that the first
    tensors are complete before the call, and that nothing writes into them until it returns.
    """
    if device.type == "cuda":
        stream = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            for source, target in pairs:
                target.copy_(source, non_blocking=True)
        stream.synchronize()
        return
    for source, target in pairs:
        # numpy copies, because torch would start additional threads for this thread.
        np.copyto(target.numpy(), source.numpy())


def mark_time(device: torch.device) -> Any:
    """Marks a point in the device's queue of work for ``seconds_between``; does not wait."""
    if device.type == "cuda":
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
    return time.perf_counter()


def seconds_between(earlier: Any, later: Any) -> float:
    """Seconds between two marks; on a GPU only after ``synchronize``."""
    if isinstance(later, float):
        return later - float(earlier)
    return float(earlier.elapsed_time(later)) / 1e3


@torch.no_grad()
def measure_product_rate(
    device: torch.device, dtype: torch.dtype, *, size: int, seconds: float
) -> float:
    """Measures the FLOP/s of this rank with products of ``size × size`` matrices.

    The result is the mean over at least ``seconds`` and at least one product. The mean, unlike the
    best product, shows a rank's share of cores that several ranks use.
    """
    left = torch.full((size, size), 0.5, dtype=dtype, device=device)
    right, out = left.clone(), torch.empty_like(left)
    products, started, elapsed = 0, time.perf_counter(), 0.0
    while not products or elapsed < seconds:
        torch.mm(left, right, out=out)
        synchronize(device)
        products += 1
        elapsed = time.perf_counter() - started
    return products * 2 * size**3 / elapsed


def _threads_per_rank(ranks: Ranks) -> int:
    # The number of threads changes the order of sums, so it is fixed, and logged.
    return requested_threads() or max(1, (os.cpu_count() or 1) // ranks.world_size)
