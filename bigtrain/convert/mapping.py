"""How a tensor of ours becomes one of transformers', and back: a few invertible kinds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


class Kind(Protocol):
    """An invertible change of a tensor's layout."""

    def to_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Ours → theirs."""

    def from_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Theirs → ours."""


@dataclass(frozen=True, slots=True)
class Same:
    """The same layout on both sides."""

    def to_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Ours → theirs."""
        return tensor

    def from_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Theirs → ours."""
        return tensor


@dataclass(frozen=True, slots=True)
class Transposed:
    """``[out, in]`` here, ``[in, out]`` there (transformers' Conv1D)."""

    def to_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Ours → theirs."""
        return tensor.t()

    from_hugging_face = to_hugging_face


@dataclass(frozen=True, slots=True)
class FusedQkv:
    """Query, key and value of each head in a row here; all queries, keys, values there.

    Weights are ``[heads × 3 × head_dim, hidden]`` here and ``[hidden, 3 × heads × head_dim]``
    there; biases lack the hidden axis.
    """

    heads: int

    def to_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Ours → theirs."""
        grouped = tensor.view(self.heads, 3, -1, *tensor.shape[1:]).transpose(0, 1)
        return grouped.reshape(tensor.shape).t() if tensor.ndim == 2 else grouped.reshape(-1)

    def from_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Theirs → ours."""
        rows = tensor.t() if tensor.ndim == 2 else tensor
        grouped = rows.reshape(3, self.heads, -1, *rows.shape[1:]).transpose(0, 1)
        return grouped.reshape(rows.shape)


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """Rows past the vocabulary are padding here and do not exist there."""

    real: int
    padded: int

    def to_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Ours → theirs."""
        return tensor[: self.real]

    def from_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Theirs → ours; the padding begins as zero."""
        padding = tensor.new_zeros(self.padded - self.real, *tensor.shape[1:])
        return torch.cat([tensor, padding])


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a family's table; ``{i}`` stands for the layer's number on both sides."""

    ours: str
    theirs: str
    kind: Kind


def expand(rules: Sequence[Rule], num_layers: int) -> Iterator[Rule]:
    """Writes each layer's rules out."""
    for rule in rules:
        if "{i}" not in rule.ours:
            yield rule
            continue
        for layer in range(num_layers):
            yield Rule(rule.ours.format(i=layer), rule.theirs.format(i=layer), rule.kind)
