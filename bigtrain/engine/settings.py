"""DeepSpeed's config dict, from ours. Pure; no torch."""

from typing import Any

from bigtrain.config import RunConfig

# DeepSpeed's default of 5e8 elements is allocated whole at the first backward pass.
REDUCE_BUCKET_ELEMENTS = 50_000_000


def deepspeed_settings(config: RunConfig, *, parameters_per_rank: int) -> dict[str, Any]:
    """Renders the config of the DeepSpeed engine.

    ``parallel.zero`` 0 and 1 are both DeepSpeed's stage 1: with 0 it partitions over groups of one
    rank, and the engine reduces the gradients (see ``topology``).

    Args:
        config: The run's config.
        parameters_per_rank: Elements that one rank holds; buckets need be no larger.
    """
    bucket = min(REDUCE_BUCKET_ELEMENTS, max(1, parameters_per_rank))
    bf16 = config.train.precision == "bf16"
    return {
        "train_micro_batch_size_per_gpu": config.train.micro_batch_size,
        "gradient_accumulation_steps": 1,
        # The schedule runs the microbatches; a step ends when we say so.
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.optim.clip_grad_norm,
        "zero_optimization": {
            "stage": 1,
            "overlap_comm": False,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "zero_allow_untested_optimizer": True,
        # Under 1F1B two forwards may come before two backwards: each gradient must reach its fp32
        # buffer at once, not at the end of "the" backward.
        "bf16": {"enabled": bf16, "immediate_grad_update": bf16},
        "data_types": {"grad_accum_dtype": "fp32"},
        # Its default is the model's type, and it rounds even where a group has one rank.
        "communication_data_type": "fp32",
        "steps_per_print": 2**31,
    }
