"""Attention through torch's own kernels: flash on a GPU, fast on a CPU."""

import math
from typing import Any

import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.functional import scaled_dot_product_attention


class CausalAttention(torch.nn.Module):
    """The softmax(QKᵀ)V of one layer, each position seeing itself and what came before.

    A mask, where there is one, says so itself, and may keep documents apart.
    """

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
        assert attn_mask_type is AttnMaskType.causal and attention_type == "self"
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **_: Any,
    ) -> torch.Tensor:
        """Attends.

        Args:
            query: ``[sequence, batch, heads, head_dim]``, as are key and value.
            key: The keys.
            value: The values.
            attention_mask: ``[batch, 1, query, key]``, True where a query sees a key, causal too;
                None sees all that came before.

        Returns:
            ``[sequence, batch, heads × head_dim]``.
        """
        heads_first = [part.permute(1, 2, 0, 3) for part in (query, key, value)]
        if self.training and self.dropout > 0:
            # Each tensor rank drops weights of its own heads.
            with get_cuda_rng_tracker().fork():
                context = self._attend(*heads_first, attention_mask, dropout=self.dropout)
        else:
            context = self._attend(*heads_first, attention_mask, dropout=0.0)
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
        return scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=self.scale,
        )
