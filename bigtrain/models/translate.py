"""Translates the config into megatron-core's; no other module sets fields of megatron-core's."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig

from bigtrain.config import RunConfig
from bigtrain.config.layout import Layout
from bigtrain.config.sections import ParallelConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

_RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {},
    "selective": {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]},
    "full": {
        "recompute_granularity": "full",
        "recompute_method": "uniform",
        "recompute_num_layers": 1,
    },
}


def megatron_config(run: RunConfig, layout: Layout) -> TransformerConfig:
    """Translates a run's model, precision and layout.

    Args:
        run: The run's config.
        layout: The sizes of the grid.
    """
    dtype = DTYPES[run.train.precision]
    return TransformerConfig(
        **_model_fields(run),
        **_layout_fields(run.parallel, layout),
        **_RECOMPUTE[run.train.recompute],
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=run.train.precision == "bf16",
        # Weights are created on the meta device, so this needs no time and no memory.
        use_cpu_initialization=True,
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        # torch.compile fuses bias + activation, and bias + dropout + residual.
        bias_activation_fusion=_fuses_activation(run),
        bias_dropout_fusion=run.train.compile,
    )


def _model_fields(run: RunConfig) -> dict[str, Any]:
    model = run.model
    return {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "num_attention_heads": model.num_heads,
        "num_query_groups": model.kv_heads,
        "ffn_hidden_size": model.feed_forward_size,
        "hidden_dropout": model.dropout,
        "attention_dropout": model.dropout,
        "normalization": {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}[model.norm],
        "layernorm_epsilon": model.norm_epsilon,
        "qk_layernorm": model.qk_norm,
        "activation_func": _activation(run),
        "gated_linear_unit": model.activation == "swiglu",
        "add_bias_linear": model.biases,
    }


def _activation(run: RunConfig) -> Callable[[torch.Tensor], torch.Tensor]:
    if run.model.activation == "swiglu":
        return torch.nn.functional.silu
    if run.model.traits.exact_gelu or _fuses_activation(run):
        # megatron-core's fused function always computes the approximation.
        return torch.nn.functional.gelu
    # GPT-2's GELU is the tanh approximation (Hendrycks & Gimpel, arXiv 1606.08415, section 2).
    return partial(torch.nn.functional.gelu, approximate="tanh")


def _fuses_activation(run: RunConfig) -> bool:
    """Whether megatron-core fuses the activation: SwiGLU, or approximate GELU after a bias."""
    model = run.model
    is_fused_gelu = not model.traits.exact_gelu and model.biases
    return run.train.compile and (model.activation == "swiglu" or is_fused_gelu)


def _layout_fields(parallel: ParallelConfig, layout: Layout) -> dict[str, Any]:
    return {
        "tensor_model_parallel_size": layout.tensor,
        "sequence_parallel": parallel.sequence and layout.tensor > 1,
        "pipeline_model_parallel_size": layout.pipeline,
        "virtual_pipeline_model_parallel_size": layout.megatron_virtual_pipeline,
        "num_layers_in_first_pipeline_stage": parallel.first_stage_layers,
        "num_layers_in_last_pipeline_stage": parallel.last_stage_layers,
        # With virtual stages gloo cannot send messages in batches; only NCCL can.
        "batch_p2p_comm": layout.virtual_pipeline == 1,
    }
