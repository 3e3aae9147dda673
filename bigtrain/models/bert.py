"""BERT of megatron-core's layers, norms before or after blocks; heads for tokens and pairs."""

import copy
from typing import Any

import torch
from megatron.core.dist_checkpointing.utils import apply_prefix_mapping
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
from bigtrain.models.norm import NORMS, LayerNorm, NormThenDropout

# The head reads its norm from this name; megatron-core's norm refuses sequence parallelism.
bert_lm_head.LNImpl = LayerNorm

_LAYERS: LayerSpecs = {
    # megatron-core shares one object among all callers, and chunk_layers modifies it.
    "torch": lambda: copy.deepcopy(bert_layer_local_spec),
    "transformer_engine": get_bert_layer_with_transformer_engine_spec,
}


class _Bert(BertModel):
    """megatron-core's BERT, called with a padding mask of one bit a token instead of a dense mask.

    ``chunk(tokens, padding_mask, token_types)``, each ``[batch, sequence]``; the last stage returns
    ``[batch, sequence, padded vocabulary / tensor]`` and ``[batch, 2]``.
    """

    def _is_in_embd_group(self) -> bool:
        # Tied copies need no broadcast: their initial values depend on the name only.
        return False

    def _sanity_check_attention_and_get_attn_mask_dimension(self) -> str:
        return "b11s"

    def bert_extended_attention_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """The mask as ``[batch, 1, 1, sequence]``, True at tokens."""
        return attention_mask[:, None, None, :]

    def sharded_state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        """The shards by global name; the embeddings' norm is not named after the dropout."""
        state: dict[str, Any] = super().sharded_state_dict(*args, **options)
        apply_prefix_mapping(state, {"embedding.embedding_dropout.": "embedding."})
        return state


def bert_chunk(
    run: RunConfig, config: TransformerConfig, *, chunk: int | None, first: bool, last: bool
) -> BertModel:
    """Builds one chunk of a BERT on torch's default device.

    Args:
        run: The run's config.
        config: The run, translated into megatron-core's config.
        chunk: The number of the chunk on this rank; None if each rank has one chunk.
        first: Whether this chunk owns the embedding.
        last: Whether this chunk owns the output layer.
    """
    model = run.model
    bert = _Bert(
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
    if first and model.norm_position == "post":
        norm, _ = NORMS[model.norm]
        bert.embedding.embedding_dropout = NormThenDropout(config, norm)
    return bert
