"""BERT from megatron-core's layers: norms before each block, heads for masks and sentence pairs."""

import copy

import torch
from megatron.core.models.bert import bert_lm_head
from megatron.core.models.bert.bert_layer_specs import (
    bert_layer_local_spec,
    get_bert_layer_with_transformer_engine_spec,
)
from megatron.core.models.bert.bert_model import BertModel
from megatron.core.transformer.transformer_config import TransformerConfig

from bigtrain.config import RunConfig
from bigtrain.models.attention import PaddedAttention
from bigtrain.models.layers import LayerSpecs, chunk_layers
from bigtrain.models.norm import LayerNorm

# The head takes its norm from there, and the one it finds refuses sequence parallelism.
bert_lm_head.LNImpl = LayerNorm

_LAYERS: LayerSpecs = {
    # megatron-core has one object for all callers, and chunk_layers writes on it.
    "torch": lambda: copy.deepcopy(bert_layer_local_spec),
    "transformer_engine": get_bert_layer_with_transformer_engine_spec,
}


class _Bert(BertModel):
    """megatron-core's model, called with one bit for each token instead of a dense mask.

    ``chunk(tokens, padding_mask, token_types)``, each ``[batch, sequence]``; the last stage gives
    ``[batch, sequence, padded vocabulary / tensor]`` and ``[batch, 2]``.
    """

    def _is_in_embd_group(self) -> bool:
        # Tied copies need no exchange: weights begin with their names.
        return False

    def _sanity_check_attention_and_get_attn_mask_dimension(self) -> str:
        return "b11s"

    def bert_extended_attention_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """``[batch, 1, 1, sequence]``, True at tokens."""
        return attention_mask[:, None, None, :]


def bert_chunk(
    run: RunConfig, config: TransformerConfig, *, chunk: int | None, first: bool, last: bool
) -> BertModel:
    """One chunk of a BERT, on the device that is torch's default while it is called.

    Args:
        run: The run.
        config: The same as megatron-core's config.
        chunk: Which of this rank's chunks; None if each rank has one chunk.
        first: Whether this chunk owns the embedding.
        last: Whether this chunk owns the output layer.
    """
    model = run.model
    return _Bert(
        config,
        num_tokentypes=2,
        transformer_layer_spec=chunk_layers(
            run, config, chunk=chunk, specs=_LAYERS, core_attention=PaddedAttention
        ),
        vocab_size=model.padded_vocab_size,
        max_sequence_length=model.max_sequence_length,
        pre_process=first,
        post_process=last,
        share_embeddings_and_output_weights=model.tie_embeddings,
        parallel_output=True,
        add_binary_head=True,
        vp_stage=chunk,
    )
