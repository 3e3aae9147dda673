"""Our model config in megatron-core's field names; nothing else in bigtrain knows those."""

from functools import partial

import torch
from megatron.core.transformer.transformer_config import TransformerConfig

from bigtrain.config import RunConfig
from bigtrain.parallel.layout import Layout

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def megatron_config(run: RunConfig, layout: Layout) -> TransformerConfig:
    """Translates what a run says of its model, its precision and its layout.

    Args:
        run: The run.
        layout: The grid that the model is split over.
    """
    model, dtype = run.model, DTYPES[run.train.precision]
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_heads,
        ffn_hidden_size=model.feed_forward_size,
        hidden_dropout=model.dropout,
        attention_dropout=model.dropout,
        layernorm_epsilon=model.norm_epsilon,
        # GPT-2's GELU is the tanh approximation (Hendrycks & Gimpel, arXiv 1606.08415, section 2).
        activation_func=partial(torch.nn.functional.gelu, approximate="tanh"),
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.virtual if layout.virtual > 1 else None,
        # gloo runs one-sided messages; their batches are NCCL's.
        batch_p2p_comm=layout.virtual == 1,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=run.train.precision == "bf16",
        # Weights are made on the meta device, where this means no work and no memory.
        use_cpu_initialization=True,
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
    )
