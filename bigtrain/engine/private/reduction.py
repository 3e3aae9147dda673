"""Separates DeepSpeed's reduction of gradients from its step."""

from collections.abc import Callable
from typing import Any


def split_reduction_from_step(engine: Any, optimizer: Any) -> Callable[[], None]:
    """Prevents DeepSpeed's ``step()`` from reducing gradients; returns a function to call instead.

    The returned function must be called between the last backward pass and ``step()``. At stage 1
    it reduces the gradients. At stages 2 and 3 DeepSpeed has reduced them after each backward pass,
    and the function moves the sums to where ``step()`` reads them.
    """
    if engine.zero_optimization_partition_gradients():
        finalize: Callable[[], None] = optimizer.finalize_gradient_accumulation_boundary
        optimizer.finalize_gradient_accumulation_boundary = lambda: None
        return finalize
    engine.enable_backward_allreduce = False

    def reduce() -> None:
        # DeepSpeed reduces only while this flag is set; step() resets it.
        engine._running_engine_step = True
        assert engine.is_gradient_accumulation_boundary(), "DeepSpeed would not reduce"
        engine.allreduce_gradients()

    return reduce
