"""CUDA or CPU: the only place that decides, and all that hangs on the decision."""

import os
import random

import torch

from bigtrain.config import ConfigError
from bigtrain.environment import Ranks, requested_threads, tell_deepspeed


def choose_device(wanted: str, ranks: Ranks) -> torch.device:
    """Picks this rank's device and prepares it; call it before DeepSpeed is imported.

    Args:
        wanted: ``auto``, ``cpu`` or ``cuda``.
        ranks: Where this process stands.

    Raises:
        ConfigError: CUDA is asked for and there is none, or too few GPUs for the local ranks.
    """
    use_cuda = wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())
    tell_deepspeed("cuda" if use_cuda else "cpu", ranks)
    if not use_cuda:
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


def communication_backend(device: torch.device) -> str:
    """The torch.distributed backend for collectives on ``device``."""
    return "nccl" if device.type == "cuda" else "gloo"


def runs_on_cpu(device: torch.device) -> bool:
    """Whether megatron-core's calls to CUDA need an answer from the CPU."""
    return device.type == "cpu"


def bound_device(device: torch.device) -> torch.device | None:
    """The GPU that collectives are bound to from the start; None on CPU."""
    return device if device.type == "cuda" else None


def seed_default_generators(seed: int, device: torch.device) -> None:
    """Seeds Python's and torch's default generators on this rank."""
    random.seed(seed)
    torch.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def synchronize(device: torch.device) -> None:
    """Waits for the device's queued work, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _threads_per_rank(ranks: Ranks) -> int:
    # The same run on another number of threads adds in another order: pinned, and logged.
    return requested_threads() or max(1, (os.cpu_count() or 1) // ranks.world_size)
