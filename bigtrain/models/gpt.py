"""GPT from megatron-core's layers."""

from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_config import TransformerConfig

from bigtrain.config.model import ModelConfig
from bigtrain.models.attention import CausalAttention
from bigtrain.models.norm import LayerNorm


class _Gpt(GPTModel):
    """megatron-core's model, whose tied copies need no exchange: weights begin with their names."""

    def _is_in_embd_group(self) -> bool:
        return False


def gpt_chunk(
    model: ModelConfig, config: TransformerConfig, *, chunk: int | None, first: bool, last: bool
) -> GPTModel:
    """One chunk of a GPT, on the device that is torch's default while it is called.

    Args:
        model: The model's config.
        config: The same in megatron-core's words.
        chunk: Which of this rank's chunks; None where a rank holds one alone.
        first: Whether it embeds.
        last: Whether it guesses.
    """
    return _Gpt(
        config,
        _layers(config, chunk),
        vocab_size=model.padded_vocab_size,
        max_sequence_length=model.max_sequence_length,
        pre_process=first,
        post_process=last,
        share_embeddings_and_output_weights=model.tie_embeddings,
        parallel_output=True,
        position_embedding_type="learned_absolute",
        vp_stage=chunk,
    )


def _layers(config: TransformerConfig, chunk: int | None) -> TransformerBlockSubmodules:
    layer: ModuleSpec = get_gpt_layer_local_spec()
    layer.submodules.input_layernorm = LayerNorm
    layer.submodules.pre_mlp_layernorm = LayerNorm
    layer.submodules.self_attention.submodules.core_attention = CausalAttention
    return TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(config, vp_stage=chunk), layer_norm=LayerNorm
    )
