"""The gradients that accumulate over the microbatches of a step, before DeepSpeed reduces them."""

from collections.abc import Iterator
from typing import Any

import torch


def skip_division_by_one(engine: Any) -> None:
    """Prevents DeepSpeed from dividing the gradient of the model's output by one.

    DeepSpeed divides by its ``gradient_accumulation_steps``, which is 1 because megatron-core's
    schedule runs the microbatches. The division would copy the gradient of the logits.
    """
    assert engine.gradient_accumulation_steps() == 1
    engine._backward_prologue_per_tensor = lambda gradient: gradient


def accumulated_gradients(parameters: list[torch.nn.Parameter]) -> Iterator[torch.Tensor]:
    """The fp32 gradients accumulated since the last step, one for each parameter that has one."""
    for parameter in parameters:
        gradient = getattr(parameter, "_hp_grad", None)
        gradient = parameter.grad if gradient is None else gradient
        if gradient is not None:
            yield gradient


def set_main_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Sets ``main_grad``, which megatron-core reads, to DeepSpeed's fp32 gradients."""
    for parameter in parameters:
        gradient = getattr(parameter, "_hp_grad", None)
        if gradient is None:  # In bf16 with offload_optimizer.
            gradient = getattr(parameter, "grad_accum", None)
        if gradient is not None:
            parameter.main_grad = gradient.view_as(parameter)  # type: ignore[attr-defined]


def delete_main_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Deletes ``main_grad`` from each parameter."""
    for parameter in parameters:
        if hasattr(parameter, "main_grad"):
            del parameter.main_grad
