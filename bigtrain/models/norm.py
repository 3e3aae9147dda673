"""Norms with megatron-core's signature; its own local ones refuse sequence parallelism."""

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig


class LayerNorm(torch.nn.LayerNorm):
    """LayerNorm over the last axis (Ba et al., arXiv 1607.06450)."""

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any
    ) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        _sum_over_tensor_ranks(self, config.sequence_parallel)


class RMSNorm(torch.nn.RMSNorm):
    """LayerNorm without mean and bias (Zhang & Sennrich, arXiv 1910.07467)."""

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any
    ) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        _sum_over_tensor_ranks(self, config.sequence_parallel)


class HeadLayerNorm(LayerNorm):
    """LayerNorm within each head of the queries or keys."""

    def __init__(self, config: TransformerConfig, **options: Any) -> None:
        super().__init__(config, **options)
        _sum_over_tensor_ranks(self, True)


class HeadRMSNorm(RMSNorm):
    """RMSNorm within each head of the queries or keys."""

    def __init__(self, config: TransformerConfig, **options: Any) -> None:
        super().__init__(config, **options)
        _sum_over_tensor_ranks(self, True)


Norm = type[LayerNorm] | type[RMSNorm]

NORMS: dict[str, tuple[Norm, Norm]] = {
    "layernorm": (LayerNorm, HeadLayerNorm),
    "rmsnorm": (RMSNorm, HeadRMSNorm),
}
"""By model.norm: the norm of the residual stream, and the norm within a head."""


def _sum_over_tensor_ranks(norm: torch.nn.Module, partial: bool) -> None:
    """Marks weights whose gradients must be summed over tensor ranks.

    Each rank sees a part of the sequence (sequence parallelism), or its own heads alone.
    """
    for parameter in norm.parameters():
        parameter.sequence_parallel = partial  # type: ignore[attr-defined]
