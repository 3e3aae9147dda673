"""The config dict of DeepSpeed, made from the run's config. Pure; no torch."""

from typing import Any

from bigtrain.config import RunConfig
from bigtrain.engine.zero import zero_stage

# DeepSpeed allocates a full bucket at the first backward pass; its default is 5e8 elements.
REDUCE_BUCKET_ELEMENTS = 50_000_000

_ALIGNMENT = 2
"""DeepSpeed requires the size of a bucket to be a multiple of this."""


def deepspeed_settings(
    config: RunConfig, *, parameters_per_rank: int, prefetch: bool
) -> dict[str, Any]:
    """Renders the config of the DeepSpeed engine.

    ``parallel.zero`` 0 and 1 are both DeepSpeed's stage 1 (see ``zero.py`` and ``topology.py``).

    Args:
        config: The run's config.
        parameters_per_rank: Elements of this rank's part of the model; no bucket is larger.
        prefetch: Whether ZeRO 3 gathers the next layer's weights while the current layer computes.
    """
    bucket = _bucket_elements(config, parameters_per_rank)
    bf16 = config.train.precision == "bf16"
    zero = zero_stage(config.parallel)
    return {
        "train_micro_batch_size_per_gpu": config.train.micro_batch_size,
        "gradient_accumulation_steps": 1,
        # The schedule runs the microbatches; a step ends when the engine calls DeepSpeed's step().
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.optim.clip_grad_norm,
        "zero_optimization": {
            "stage": zero.deepspeed_stage,
            "overlap_comm": False,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            **_offload(config),
            **(_stage_3(config, parameters_per_rank, prefetch) if zero.partitions_weights else {}),
        },
        "zero_allow_untested_optimizer": True,
        # torch's own Adam runs on CPU too; DeepSpeed's needs a C++ compiler at start-up.
        "zero_force_ds_cpu_optimizer": False,
        # Each gradient must be added to its fp32 buffer immediately. By default DeepSpeed adds
        # once per forward pass, and under 1F1B two forward passes may precede two backward passes.
        "bf16": {"enabled": bf16, "immediate_grad_update": bf16},
        "data_types": {"grad_accum_dtype": "fp32"},
        # The default is the model's dtype; DeepSpeed rounds to it even in a group of one rank.
        "communication_data_type": "fp32",
        "steps_per_print": 2**31,
    }


def _bucket_elements(config: RunConfig, parameters_per_rank: int) -> int:
    elements = parameters_per_rank
    if zero_stage(config.parallel).partitions_weights:
        # ZeRO 3 gathers the weights and gradients of at most one layer.
        elements = _layer_elements(config, parameters_per_rank)
    return -(-min(REDUCE_BUCKET_ELEMENTS, elements) // _ALIGNMENT) * _ALIGNMENT


def _layer_elements(config: RunConfig, parameters_per_rank: int) -> int:
    """The approximate number of elements of one layer, with an equal share of the embedding."""
    layers_per_rank = max(1, config.model.num_layers // config.parallel.pipeline)
    return parameters_per_rank // layers_per_rank


def _offload(config: RunConfig) -> dict[str, Any]:
    if not config.parallel.offload_optimizer:
        return {}
    return {"offload_optimizer": {"device": "cpu"}}


def _stage_3(config: RunConfig, parameters_per_rank: int, prefetch: bool) -> dict[str, Any]:
    """The keys that define when ZeRO 3 gathers and frees the weights of a layer."""
    layer = _layer_elements(config, parameters_per_rank)
    return {
        # Norms and small biases are not partitioned: gathering each costs more than it saves.
        "stage3_param_persistence_threshold": min(100_000, parameters_per_rank // 1000),
        # Weights are freed after each use; the default keeps 1e9 elements until the backward pass.
        "stage3_max_reuse_distance": 0,
        "stage3_max_live_parameters": 2 * layer if prefetch else 0,
        "stage3_prefetch_bucket_size": layer if prefetch else 0,
        "memory_efficient_linear": False,
        # DeepSpeed cannot copy bf16 gradients into fp32 buckets.
        "contiguous_gradients": config.train.precision == "fp32",
    }
