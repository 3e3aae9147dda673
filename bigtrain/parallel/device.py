"""CUDA or CPU: the only place that decides, and all that hangs on the decision."""

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
    ask_for_huge_pages,
    requested_threads,
    tell_deepspeed,
)
from bigtrain.parallel import cpu
from bigtrain.parallel.buckets import fill_buckets

_BLOCK_ELEMENTS = 2**26


def choose_device(wanted: str, ranks: Ranks) -> torch.device:
    """Picks this rank's device and prepares it; call it before DeepSpeed is imported.

    Args:
        wanted: ``auto``, ``cpu`` or ``cuda``.
        ranks: Where this process stands.

    Raises:
        ConfigError: CUDA is asked for and there is none, or too few GPUs for the local ranks.
    """
    kind = device_kind(wanted)
    tell_deepspeed(kind, ranks)
    if kind == "cpu":
        ask_for_huge_pages()
        torch.set_num_threads(_threads_per_rank(ranks))
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if ranks.local_rank >= count:
        raise ConfigError(
            f"parallel.device={wanted}: local rank {ranks.local_rank} has no GPU, this machine has "
            f"{count}; start fewer processes or set parallel.device=cpu"
        )
    torch.cuda.set_device(ranks.local_rank)
    return torch.device("cuda", ranks.local_rank)


def device_kind(wanted: str) -> DeviceKind:
    """Where ranks compute on this machine, for a value of parallel.device."""
    use_cuda = wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())
    return "cuda" if use_cuda else "cpu"


def communication_backend(device: torch.device) -> str:
    """The torch.distributed backend for collectives on ``device``."""
    return "nccl" if device.type == "cuda" else "gloo"


def runs_on_cpu(device: torch.device) -> bool:
    """Whether megatron-core's calls to CUDA need an answer from the CPU."""
    return device.type == "cpu"


def settle_memory(device: torch.device) -> None:
    """Call it once model and optimizer stand: from then on each step asks for the same sizes."""
    if runs_on_cpu(device):
        cpu.keep_freed_memory()


def bound_device(device: torch.device) -> torch.device | None:
    """The GPU that collectives are bound to from the start; None on CPU."""
    return device if device.type == "cuda" else None


def seed_default_generators(seed: int, device: torch.device) -> None:
    """Seeds Python's and torch's default generators on this rank."""
    random.seed(seed)
    torch.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def has_block_attention(device: torch.device) -> bool:
    """Whether attention inside documents runs in blocks (flex_attention) and not by a mask."""
    return device.type == "cuda"


def synchronize(device: torch.device) -> None:
    """Waits for the device's queued work, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """What the vendor calls the device; ``cpu`` on CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held at once since the start or the last reset.

    On a GPU what torch's tensors took; on CPU the resident memory of the whole process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory(device: torch.device) -> bool:
    """Lets ``peak_memory_bytes`` begin anew from what is held now; False where it cannot."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the high-water mark.
    except OSError:
        return False
    return True


def host_memory(shapes: Sequence[torch.Size], device: torch.device) -> list[torch.Tensor]:
    """Host memory for fp32 tensors, such as ``device`` can be copied into at full speed.

    Tensors that follow each other share a block of ``_BLOCK_ELEMENTS``, or less: torch gives pinned
    memory in powers of two only, up to twice of what is asked for.
    """
    memory = []
    for block in fill_buckets(shapes, elements=_BLOCK_ELEMENTS):
        sizes = [shape.numel() for shape in block]
        values = torch.empty(sum(sizes), dtype=torch.float32, pin_memory=device.type == "cuda")
        memory += [v.view(shape) for v, shape in zip(values.split(sizes), block, strict=True)]
    return memory


def copy_beside(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], device: torch.device) -> None:
    """Copies each first tensor into the second, in host memory, beside what the device computes.

    Returns when all are there. A thread may call it; what has written the first ones is done by
    then, and whoever writes into them again waits.
    """
    if device.type == "cuda":
        stream = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            for source, target in pairs:
                target.copy_(source, non_blocking=True)
        stream.synchronize()
        return
    for source, target in pairs:
        # Of numpy's, because torch would start threads of its own for this one.
        np.copyto(target.numpy(), source.numpy())


def mark_time(device: torch.device) -> Any:
    """A point in the device's queue of work, for ``seconds_between``; never waits."""
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
    """FLOP/s of products of ``size × size`` matrices that this rank computes for so many seconds.

    The mean over the time, not the best product: where ranks share cores, that is their share. At
    least one product is computed.
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
    # The same run on another number of threads adds in another order: pinned, and logged.
    return requested_threads() or max(1, (os.cpu_count() or 1) // ranks.world_size)
