"""Makes ZeRO 2 and 3 work with pipeline parallelism, which DeepSpeed does not support."""

from typing import Any

from deepspeed.runtime.zero import partitioned_param_coordinator


def reduce_after_every_backward(engine: Any, optimizer: Any) -> None:
    """Makes DeepSpeed reduce the gradients after each backward pass, in any order of passes.

    DeepSpeed resets its flag "backward was seen" in the next *forward* pass. 1F1B also runs two
    consecutive backward passes, and the gradients of the second would not be reduced.
    """
    original = engine._backward_prologue

    def prologue() -> None:
        optimizer.clear_backward_seen_flag()
        original()

    engine._backward_prologue = prologue


def skip_trace_comparison() -> None:
    """Prevents ZeRO 3 from comparing the order of modules over all ranks.

    Stages hold different layers, so the ranks would wait for each other forever.
    """
    partitioned_param_coordinator.assert_ints_same_as_other_ranks = lambda _: None
