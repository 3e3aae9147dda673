"""Converts tensors between bigtrain and transformers with a few invertible mappings.

"Ours" means bigtrain's tensors, "theirs" those of transformers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch


class TensorMapping(Protocol):
    """An invertible rearrangement of a tensor's elements."""

    def to_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Ours → theirs."""

    def from_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Theirs → ours."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The tensors are equal."""

    def to_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Ours → theirs."""
        return tensor

    def from_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Theirs → ours."""
        return tensor


@dataclass(frozen=True, slots=True)
class Transposed:
    """Ours is ``[out, in]``, theirs is ``[in, out]`` (transformers' Conv1D)."""

    def to_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Ours → theirs."""
        return tensor.t()

    from_hugging_face = to_hugging_face


@dataclass(frozen=True, slots=True)
class FusedQkv:
    """Ours: query, key and value, head after head. Theirs: all queries, all keys, all values.

    Our weights are ``[heads × 3 × head_dim, hidden]``, theirs ``[hidden, 3 × heads × head_dim]``.
    Biases have no hidden axis.
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
class GroupedQkv:
    """Ours: queries, key and value, group after group. Theirs: all queries, all keys, all values.

    Both are ``[(heads + 2 × key heads) × head_dim, …]``, for weights and biases.
    """

    heads: int
    kv_heads: int

    def to_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Ours → theirs."""
        queries = self.heads // self.kv_heads
        grouped = tensor.view(self.kv_heads, queries + 2, -1, *tensor.shape[1:])
        parts = grouped.split((queries, 1, 1), dim=1)
        return torch.cat([part.reshape(-1, *tensor.shape[1:]) for part in parts])

    def from_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Theirs → ours."""
        queries = self.heads // self.kv_heads
        rest = tensor.shape[1:]
        rows = tensor.shape[0] // (self.heads + 2 * self.kv_heads)
        sizes = [heads * rows for heads in (self.heads, self.kv_heads, self.kv_heads)]
        parts = [
            part.view(self.kv_heads, count, rows, *rest)
            for part, count in zip(tensor.split(sizes), (queries, 1, 1), strict=True)
        ]
        return torch.cat(parts, dim=1).reshape(tensor.shape)


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """Ours has padding rows after the vocabulary, theirs does not."""

    vocab_size: int
    padded_vocab_size: int

    def to_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Ours → theirs."""
        return tensor[: self.vocab_size]

    def from_hugging_face(self, tensor: torch.Tensor) -> torch.Tensor:
        """Theirs → ours; the padding is zero."""
        padding = tensor.new_zeros(self.padded_vocab_size - self.vocab_size, *tensor.shape[1:])
        return torch.cat([tensor, padding])


@dataclass(frozen=True, slots=True)
class Rule:
    """Which of their tensors one of ours becomes; ``{i}`` in names is the number of the layer."""

    ours: str
    theirs: str | tuple[str, ...]
    """Several names if our tensor is split along its rows."""
    mapping: TensorMapping
    rows: tuple[int, ...] = ()
    """The number of rows of each of their tensors, if there are several."""

    @property
    def their_names(self) -> tuple[str, ...]:
        """Their names, always as a tuple."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs

    def to_hugging_face(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """Ours → theirs, by name; each is a contiguous copy."""
        mapped = self.mapping.to_hugging_face(tensor)
        parts = mapped.split(self.rows) if self.rows else (mapped,)
        copies = (part.clone(memory_format=torch.contiguous_format) for part in parts)
        return dict(zip(self.their_names, copies, strict=True))

    def from_hugging_face(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Theirs → ours."""
        parts = [tensors[name] for name in self.their_names]
        return self.mapping.from_hugging_face(torch.cat(parts) if self.rows else parts[0])


def expand(rules: Sequence[Rule], num_layers: int) -> Iterator[Rule]:
    """Yields the rules with one copy for each layer instead of ``{i}``."""
    for rule in rules:
        if "{i}" not in rule.ours:
            yield rule
            continue
        for layer in range(num_layers):
            names = tuple(name.format(i=layer) for name in rule.their_names)
            theirs = names[0] if isinstance(rule.theirs, str) else names
            yield replace(rule, ours=rule.ours.format(i=layer), theirs=theirs)


def identity_rules(ours: str, theirs: str, *, bias: bool = True) -> tuple[Rule, ...]:
    """Rules for a weight and its bias that need no rearrangement.

    Args:
        ours: Our name up to "weight" or "bias".
        theirs: Their name up to "weight" or "bias".
        bias: Whether there is a bias.
    """
    return tuple(
        Rule(f"{ours}{part}", f"{theirs}{part}", Identity())
        for part in (("weight", "bias") if bias else ("weight",))
    )
