"""What DeepSpeed does for the other data ranks when there are none, left out."""

from typing import Any

from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

from bigtrain.engine.private.version import is_known


def leave_gradients_in_place(engine: Any, optimizer: Any) -> None:
    """Keeps a known DeepSpeed's stage 1 from reducing over the one rank of its data-parallel group.

    It would copy all gradients into a bucket, divide them by one, and copy them back and aside:
    four passes over them with fp32 weights, three with bf16.

    Args:
        engine: DeepSpeed's, with one data rank and stage 1.
        optimizer: Its optimizer, on the device of the weights.
    """
    if not is_known():
        return
    if isinstance(optimizer, BF16_Optimizer):
        engine.buffered_allreduce_fallback = lambda *_, **__: None
    else:
        optimizer.reduce_independent_p_g_buckets_and_remove_grads = lambda *_: None
