"""DeepSpeed's private names, all of them, behind a check of its version."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
from deepspeed.runtime import bf16_optimizer

from bigtrain.config import ConfigError

KNOWN_VERSION = "0.19.8"


@dataclass(frozen=True, slots=True)
class Fragment:
    """The flat range of a local parameter whose optimizer state this rank keeps.

    All views are fp32 and one-dimensional, and alias DeepSpeed's own buffers.
    """

    start: int
    master: torch.Tensor
    first_moment: torch.Tensor
    second_moment: torch.Tensor


def check_version() -> None:
    """Refuses a DeepSpeed whose private names we have not seen.

    Raises:
        ConfigError: It is another version.
    """
    if deepspeed.__version__ != KNOWN_VERSION:
        raise ConfigError(
            f"deepspeed {deepspeed.__version__} is installed, bigtrain knows {KNOWN_VERSION}; "
            f"pip install deepspeed=={KNOWN_VERSION}"
        )


def silence_memory_reports() -> None:
    """Keeps DeepSpeed's bf16 optimizer from printing (not logging) the memory 18 times a start."""
    bf16_optimizer.see_memory_usage = lambda *_, **__: None


def leave_kernels_uncompiled() -> None:
    """Keeps DeepSpeed from compiling its shared-memory collectives at start-up.

    That takes most of a minute and a C++ compiler, and gloo's own sums are what runs on CPU.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def create_moments(optimizer: Any) -> None:
    """Makes Adam's moments exist before the first step, as zeros, so that they can be loaded."""
    for flat in _flat_masters(optimizer):
        state = optimizer.optimizer.state[flat]
        if "exp_avg" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
            state["exp_avg"] = torch.zeros_like(flat, requires_grad=False)
            state["exp_avg_sq"] = torch.zeros_like(flat, requires_grad=False)


def fragment_of(parameter: torch.nn.Parameter, optimizer: Any) -> Fragment | None:
    """The part of ``parameter`` whose state this rank keeps; None when that is nothing."""
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return None
    address = mapping.hp_fragment_address
    flat = _flat_masters(optimizer)[mapping.param_group_index]
    state = optimizer.optimizer.state[flat]
    return Fragment(
        start=mapping.lp_fragment_address.start,
        master=flat.data.narrow(0, address.start, address.numel),
        first_moment=state["exp_avg"].narrow(0, address.start, address.numel),
        second_moment=state["exp_avg_sq"].narrow(0, address.start, address.numel),
    )


def adam_steps(optimizer: Any) -> int:
    """Updates that Adam has made."""
    flats = _flat_masters(optimizer)
    return int(optimizer.optimizer.state[flats[0]]["step"].item()) if flats else 0


def set_adam_steps(optimizer: Any, steps: int) -> None:
    """Sets the count that Adam's bias correction uses."""
    for flat in _flat_masters(optimizer):
        optimizer.optimizer.state[flat]["step"].fill_(steps)


def publish_masters(optimizer: Any) -> None:
    """Copies the master weights into the weights that the model computes with, on every rank."""
    optimizer.update_lp_params()


def accumulated_gradients(parameters: list[torch.nn.Parameter]) -> Iterator[torch.Tensor]:
    """The fp32 gradients that have piled up since the last step, one for each parameter."""
    for parameter in parameters:
        gradient = getattr(parameter, "_hp_grad", None)
        gradient = parameter.grad if gradient is None else gradient
        if gradient is not None:
            yield gradient


def lend_main_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Shows megatron-core DeepSpeed's fp32 gradient buffers under the name that it looks for."""
    for parameter in parameters:
        gradient = getattr(parameter, "_hp_grad", None)
        if gradient is not None:
            parameter.main_grad = gradient.view_as(parameter)  # type: ignore[attr-defined]


def take_back_main_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Ends the loan."""
    for parameter in parameters:
        if hasattr(parameter, "main_grad"):
            del parameter.main_grad


def was_skipped(optimizer: Any) -> bool:
    """Whether the last step was not applied because the gradient's norm was not finite."""
    return bool(optimizer.overflow)


def gradient_norm(engine: Any) -> float:
    """Global norm of the last step's gradient, before clipping."""
    norm = engine.get_global_grad_norm()
    return math.nan if norm is None else float(norm)


def _flat_masters(optimizer: Any) -> list[torch.Tensor]:
    # bf16 with fp32 accumulation is a class of its own in DeepSpeed, with other names.
    if hasattr(optimizer, "fp32_groups_flat_partition"):
        return list(optimizer.fp32_groups_flat_partition)
    return list(optimizer.single_partition_of_fp32_groups)
