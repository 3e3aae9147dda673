"""GPT from megatron-core layers: what this rank holds of it, made without building the whole."""

import torch
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_config import TransformerConfig

from bigtrain.config.sections import ModelConfig
from bigtrain.models.attention import CausalAttention
from bigtrain.models.norm import LayerNorm
from bigtrain.models.translate import DTYPES, megatron_config
from bigtrain.parallel.groups import is_first_stage, is_last_stage
from bigtrain.parallel.layout import Layout


class _Gpt(GPTModel):
    """megatron-core's model, whose tied copies need no exchange: weights begin with their names."""

    def _is_in_embd_group(self) -> bool:
        return False


def build_gpt(
    model: ModelConfig, *, layout: Layout, precision: str, device: torch.device
) -> GPTModel:
    """Builds this rank's part of the model; its weights are allocated but not yet given values.

    Args:
        model: The model's config.
        layout: The grid; the process groups must stand.
        precision: ``fp32`` or ``bf16``.
        device: Where the weights live.
    """
    config = megatron_config(model, layout, precision)
    with torch.device("meta"):
        module = _Gpt(
            config,
            _layers(config),
            vocab_size=model.padded_vocab_size,
            max_sequence_length=model.max_sequence_length,
            pre_process=is_first_stage(),
            post_process=is_last_stage(),
            share_embeddings_and_output_weights=model.tie_embeddings,
            parallel_output=True,
            position_embedding_type="learned_absolute",
        )
    _materialize(module, DTYPES[precision], device)
    if model.tie_embeddings and layout.pipeline > 1 and is_last_stage():
        # The same weight stands on the first stage: the gradient's norm counts it once.
        module.shared_embedding_or_output_weight().ds_pipe_replicated = True
    return module


def _layers(config: TransformerConfig) -> TransformerBlockSubmodules:
    layer: ModuleSpec = get_gpt_layer_local_spec()
    layer.submodules.input_layernorm = LayerNorm
    layer.submodules.pre_mlp_layernorm = LayerNorm
    layer.submodules.self_attention.submodules.core_attention = CausalAttention
    return TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(config), layer_norm=LayerNorm
    )


def _materialize(module: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Gives each meta parameter storage, keeping what megatron-core wrote on it."""
    for submodule in module.modules():
        for name, meta in list(submodule._parameters.items()):
            if meta is None:
                continue
            parameter = torch.nn.Parameter(torch.empty(meta.shape, dtype=dtype, device=device))
            parameter.__dict__.update(meta.__dict__)
            submodule._parameters[name] = parameter
        assert not any(
            buffer.is_meta for buffer in submodule._buffers.values() if buffer is not None
        )
