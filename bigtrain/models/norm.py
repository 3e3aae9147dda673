"""Norms with megatron-core's signature; megatron-core's torch norms refuse sequence parallelism."""

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig


class LayerNorm(torch.nn.LayerNorm):
    """LayerNorm over the last axis (Ba et al., arXiv 1607.06450)."""

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any
    ) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        _mark_partial_gradients(self, config.sequence_parallel)


class RMSNorm(torch.nn.RMSNorm):
    """LayerNorm without mean and bias (Zhang & Sennrich, arXiv 1910.07467)."""

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any
    ) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        _mark_partial_gradients(self, config.sequence_parallel)


class HeadLayerNorm(LayerNorm):
    """LayerNorm within each head of the queries or keys."""

    def __init__(self, config: TransformerConfig, **options: Any) -> None:
        super().__init__(config, **options)
        _mark_partial_gradients(self, True)


class HeadRMSNorm(RMSNorm):
    """RMSNorm within each head of the queries or keys."""

    def __init__(self, config: TransformerConfig, **options: Any) -> None:
        super().__init__(config, **options)
        _mark_partial_gradients(self, True)


Norm = type[LayerNorm] | type[RMSNorm]

NORMS: dict[str, tuple[Norm, Norm]] = {
    "layernorm": (LayerNorm, HeadLayerNorm),
    "rmsnorm": (RMSNorm, HeadRMSNorm),
}
"""For each model.norm: the norm of the residual stream, and the norm within a head."""


def _mark_partial_gradients(norm: torch.nn.Module, partial: bool) -> None:
    """Marks weights whose gradients must be summed over tensor ranks.

    With sequence parallelism each rank applies the norms to its part of the sequence; it applies
    norms within heads to its own heads only.
    """
    for parameter in norm.parameters():
        parameter.sequence_parallel = partial  # type: ignore[attr-defined]
