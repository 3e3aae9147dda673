"""Attention with torch's own kernels: scaled_dot_product_attention and flex_attention."""

import math
from contextlib import nullcontext
from typing import Any

import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.functional import scaled_dot_product_attention

from bigtrain.models.documents import DocumentMasks, attend_in_blocks


class _CoreAttention(torch.nn.Module):
    """The softmax(QKᵀ)V of one layer; subclasses define which keys a query attends to."""

    mask_type: AttnMaskType

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        assert attn_mask_type is self.mask_type and attention_type == "self"
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        # With sequence parallelism the complete block already uses each rank's forked generator.
        # megatron-core's recomputation cannot replay nested forks.
        self._forks = not config.sequence_parallel

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **_: Any,
    ) -> torch.Tensor:
        """Computes attention.

        Args:
            query: ``[sequence, batch, heads, head_dim]``.
            key: ``[sequence, batch, key heads, head_dim]``; query heads share key heads evenly.
            value: ``[sequence, batch, key heads, head_dim]``.
            attention_mask: See the subclass.

        Returns:
            ``[sequence, batch, heads × head_dim]``.
        """
        heads_first = [part.permute(1, 2, 0, 3) for part in (query, key, value)]
        dropout = self.dropout if self.training else 0.0
        # Each tensor rank drops attention weights of its own heads.
        with get_cuda_rng_tracker().fork() if dropout and self._forks else nullcontext():
            context = self._attend(*heads_first, attention_mask, dropout=dropout)
        return context.permute(2, 0, 1, 3).flatten(2)

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        *,
        dropout: float,
    ) -> torch.Tensor:
        raise NotImplementedError

    def _attend_densely(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        *,
        causal: bool,
        dropout: float,
    ) -> torch.Tensor:
        return scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=causal,
            scale=self.scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )


class CausalAttention(_CoreAttention):
    """Each position attends to itself and earlier ones, within its document if documents are given.

    ``attention_mask`` is None, or ``[batch, sequence]``: the number of each token's document.
    """

    mask_type = AttnMaskType.causal

    def __init__(self, *args: Any, masks: DocumentMasks, **options: Any) -> None:
        super().__init__(*args, **options)
        self._masks = masks

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        documents: torch.Tensor | None,
        *,
        dropout: float,
    ) -> torch.Tensor:
        if documents is None:
            return self._attend_densely(query, key, value, None, causal=True, dropout=dropout)
        mask = self._masks.of(documents)
        if isinstance(mask, torch.Tensor):
            return self._attend_densely(query, key, value, mask, causal=False, dropout=dropout)
        assert dropout == 0, "config/device_rules.py refuses model.dropout with documents on a GPU"
        return attend_in_blocks(query, key, value, mask, scale=self.scale)


class PaddedAttention(_CoreAttention):
    """Each position attends to all tokens except padding.

    ``attention_mask`` is ``[batch, 1, 1, key]``, True at tokens.
    """

    mask_type = AttnMaskType.padding

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        padding_mask: torch.Tensor | None,
        *,
        dropout: float,
    ) -> torch.Tensor:
        return self._attend_densely(query, key, value, padding_mask, causal=False, dropout=dropout)
