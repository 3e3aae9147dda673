"""Rotary embeddings of arbitrary positions: packed documents restart positions within a row."""

import math
from collections.abc import Callable
from typing import Any

import torch
from megatron.core.transformer.attention import SelfAttention

from bigtrain.config.model import ModelConfig, RopeScalingConfig


def inverse_frequencies(model: ModelConfig) -> torch.Tensor:
    """The angle by which each pair of elements is rotated from one position to the next.

    Su et al., arXiv 2104.09864, equation 15; with rope_scaling as in Llama 3.1 (arXiv 2407.21783).

    Args:
        model: Its head size, rope_theta and rope_scaling are used.

    Returns:
        ``[head_dim / 2]``, radians, fp32, on CPU even where the meta device is the default.
    """
    exponents = torch.arange(0, model.head_dim, 2, dtype=torch.int64, device="cpu").float()
    frequencies = 1.0 / model.rope_theta ** (exponents / model.head_dim)
    if model.rope_scaling is None:
        return frequencies
    return _scale_frequencies(frequencies, model.rope_scaling)


def _scale_frequencies(frequencies: torch.Tensor, scaling: RopeScalingConfig) -> torch.Tensor:
    """Divides low frequencies by the factor, keeps high ones, and interpolates between them."""
    turns = frequencies * scaling.original_max_sequence_length / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor


class RotaryTable:
    """Cosines and sines of positions; not a module, so a cast to bf16 does not round angles."""

    def __init__(self, model: ModelConfig, dtype: torch.dtype) -> None:
        """Computes the frequencies.

        Args:
            model: The model.
            dtype: Type of the queries and keys to rotate.
        """
        self._frequencies = inverse_frequencies(model)
        self._dtype = dtype

    def __call__(self, positions: torch.Tensor) -> torch.Tensor:
        """Returns the cosines and sines of positions.

        Args:
            positions: ``[batch, sequence]``, int64.

        Returns:
            ``[sequence, batch, 1, head_dim]``: cosines, then sines. The batch axis has size 1
            if ``positions`` is one expanded row.
        """
        self._frequencies = self._frequencies.to(positions.device)
        rows = positions[:1] if positions.stride(0) == 0 else positions
        angles = rows.t()[..., None].float() * self._frequencies
        return torch.cat((angles.cos(), angles.sin()), dim=-1)[:, :, None].to(self._dtype)


def rotate(states: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Rotates each pair (i, i + head_dim / 2) by its angle.

    Args:
        states: Queries or keys, ``[sequence, batch, heads, head_dim]``.
        table: From ``RotaryTable``, ``[sequence, batch, 1, head_dim]``.
    """
    cosines, sines = table.chunk(2, dim=-1)
    first, second = states.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)


class RotarySelfAttention(SelfAttention):
    """megatron-core's self-attention with a table of arbitrary positions.

    megatron-core's class takes one row of angles for all samples, and computes cosines per layer.
    """

    rotation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = staticmethod(rotate)
    _table: torch.Tensor | None = None

    def forward(
        self, *args: Any, rotary_pos_emb: torch.Tensor | None = None, **options: Any
    ) -> Any:
        """Computes attention; ``rotary_pos_emb`` comes from a ``RotaryTable``."""
        self._table = rotary_pos_emb
        try:
            return super().forward(*args, **options)
        finally:
            self._table = None

    def get_query_key_value_tensors(self, *args: Any, **options: Any) -> Any:
        """Queries and keys, both rotated, and values."""
        query, key, value = super().get_query_key_value_tensors(*args, **options)
        if self._table is None:
            return query, key, value
        return self.rotation(query, self._table), self.rotation(key, self._table), value
