"""Skips DeepSpeed's reduction of gradients over a group of one rank."""

from typing import Any

from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

from bigtrain.engine.deepspeed_version import is_known_version


def skip_reduction_over_one_rank(engine: Any, optimizer: Any) -> None:
    """Prevents the known version's stage 1 from reducing gradients over a group of one rank.

    DeepSpeed would copy all gradients into a bucket, divide them by one and copy them twice more:
    four passes over them with fp32 weights, three with bf16.

    Args:
        engine: DeepSpeed's engine, with stage 1 and one data-parallel rank.
        optimizer: The engine's optimizer, on the device of the weights.
    """
    if not is_known_version():
        return
    if isinstance(optimizer, BF16_Optimizer):
        engine.buffered_allreduce_fallback = lambda *_, **__: None
    else:
        optimizer.reduce_independent_p_g_buckets_and_remove_grads = lambda *_: None
