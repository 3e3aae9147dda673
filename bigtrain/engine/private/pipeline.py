"""ZeRO 2 and 3 under pipeline parallelism, which DeepSpeed does not know: what it takes."""

from typing import Any

from deepspeed.runtime.zero import partitioned_param_coordinator


def follow_the_schedule(engine: Any, optimizer: Any) -> None:
    """Makes DeepSpeed reduce gradients after each backward pass, whatever ran before it.

    DeepSpeed forgets the last backward at the next *forward*. 1F1B runs F F B B, and the second
    backward would pass unseen, its gradients unreduced.
    """
    theirs = engine._backward_prologue

    def prologue() -> None:
        optimizer.clear_backward_seen_flag()
        theirs()

    engine._backward_prologue = prologue


def let_stages_differ() -> None:
    """Keeps ZeRO 3 from comparing its trace with other stages', which hold other layers.

    It compares over all ranks, not over those that share the parameters, and would wait for ever.
    """
    partitioned_param_coordinator.assert_ints_same_as_other_ranks = lambda _: None
