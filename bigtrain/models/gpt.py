"""GPT made of megatron-core's layers, in the style of GPT-2 or of Llama."""

from functools import partial
from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig

from bigtrain.config import RunConfig
from bigtrain.models.attention import CausalAttention
from bigtrain.models.documents import DocumentMasks
from bigtrain.models.layers import LayerSpecs, chunk_layers
from bigtrain.models.rotary import RotaryTable

_LAYERS: LayerSpecs = {
    "torch": get_gpt_layer_local_spec,
    "transformer_engine": get_gpt_layer_with_transformer_engine_spec,
}


class _Gpt(GPTModel):
    """megatron-core's GPT with rotary embeddings of arbitrary positions."""

    rotary_table: RotaryTable | None = None

    def _is_in_embd_group(self) -> bool:
        # Tied copies need no broadcast: their initial values depend on the name only.
        return False

    def _preprocess(self, *args: Any, position_ids: torch.Tensor, **options: Any) -> Any:
        hidden, _, *others = super()._preprocess(*args, position_ids=position_ids, **options)
        table = None if self.rotary_table is None else self.rotary_table(position_ids)
        return (hidden, table, *others)

    def _postprocess(self, hidden_states: torch.Tensor, *args: Any, **options: Any) -> Any:
        if not self.post_process or self.config.sequence_parallel:
            return super()._postprocess(hidden_states, *args, **options)
        # The hidden states are transposed before the output layer. megatron-core transposes the
        # logits, the largest tensor of a step, which copies them once and their gradient twice.
        tied = self.share_embeddings_and_output_weights
        weight = self.shared_embedding_or_output_weight() if tied else None
        logits, _ = self.output_layer(hidden_states.transpose(0, 1).contiguous(), weight=weight)
        return logits


def gpt_chunk(
    run: RunConfig, config: TransformerConfig, *, chunk: int | None, first: bool, last: bool
) -> GPTModel:
    """Builds one chunk of a GPT on torch's default device.

    Args:
        run: The run's config.
        config: The run, translated into megatron-core's config.
        chunk: The number of the chunk on this rank; None if each rank has one chunk.
        first: Whether this chunk owns the embedding.
        last: Whether this chunk owns the output layer.
    """
    model = run.model
    gpt = _Gpt(
        config,
        chunk_layers(
            run,
            config,
            chunk=chunk,
            specs=_LAYERS,
            core_attention=partial(CausalAttention, masks=DocumentMasks()),
        ),
        vocab_size=model.padded_vocab_size,
        max_sequence_length=model.max_sequence_length,
        pre_process=first,
        post_process=last,
        share_embeddings_and_output_weights=model.tie_embeddings,
        parallel_output=True,
        # megatron-core's rotary embedding always counts positions from the start of the row.
        position_embedding_type="none" if model.positions == "rope" else "learned_absolute",
        vp_stage=chunk,
    )
    if model.positions == "rope":
        gpt.rotary_table = RotaryTable(model, config.params_dtype)
    return gpt
