"""Norms with megatron-core's signature; megatron-core's torch norms refuse sequence parallelism."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
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


class AddThenNorm(torch.nn.Module):
    """Adds bias, dropout and residual as megatron-core does, and applies a norm to the sum.

    It takes the place of megatron-core's ``get_bias_dropout_add`` in a layer.
    """

    def __init__(self, config: TransformerConfig, norm: "Norm") -> None:
        super().__init__()
        self.norm = norm(config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon)

    def forward(self, training: bool, fused: bool) -> Callable[..., torch.Tensor]:
        """Returns the function of (output and bias of a block, residual, dropout)."""
        add = get_bias_dropout_add(training, fused)

        def add_then_norm(*args: Any) -> torch.Tensor:
            # megatron-core enables gradients here, even in validation: nothing need be kept.
            with nullcontext() if training else torch.no_grad():
                return self.norm(add(*args))

        return add_then_norm


class NormThenDropout(torch.nn.Module):
    """The end of the embeddings of a model with norms after its blocks."""

    def __init__(self, config: TransformerConfig, norm: "Norm") -> None:
        super().__init__()
        self.layer_norm = norm(config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon)
        self.dropout = torch.nn.Dropout(config.hidden_dropout)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Maps the sum of all embeddings, ``[sequence, batch, hidden]``, to the first states."""
        states: torch.Tensor = self.dropout(self.layer_norm(embeddings))
        return states


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
