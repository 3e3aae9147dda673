"""Leaves out DeepSpeed's reduction of gradients where there is only one replica rank."""

from typing import Any

from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

from bigtrain.engine.private.version import is_known


def skip_reduction_over_one_rank(engine: Any, optimizer: Any) -> None:
    """Keeps a known DeepSpeed's stage 1 from reducing gradients over a group of one rank.

    DeepSpeed would copy all gradients into a bucket, divide them by one and copy them twice more:
    four passes over them with fp32 weights, three with bf16.

    Args:
        engine: DeepSpeed's, with one data-parallel rank and stage 1.
        optimizer: Its optimizer, on the device of the weights.
    """
    if not is_known():
        return
    if isinstance(optimizer, BF16_Optimizer):
        engine.buffered_allreduce_fallback = lambda *_, **__: None
    else:
        optimizer.reduce_independent_p_g_buckets_and_remove_grads = lambda *_: None
