"""How a tensor of ours becomes one of transformers', and back: a few invertible kinds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
class GroupedQkv:
    """The queries of a group, its key and its value here; all queries, keys, values there.

    ``[(heads + 2 × key heads) × head_dim, …]`` on both sides, weights and biases alike.
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
    theirs: str | tuple[str, ...]
    """Several where a tensor of ours is cut along its rows."""
    kind: Kind
    rows: tuple[int, ...] = ()
    """Rows of each of theirs, where there are several."""

    @property
    def names(self) -> tuple[str, ...]:
        """Theirs, as a tuple."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs

    def to_hugging_face(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """Ours → theirs, by name; each has memory of its own."""
        whole = self.kind.to_hugging_face(tensor)
        parts = whole.split(self.rows) if self.rows else (whole,)
        copies = (part.clone(memory_format=torch.contiguous_format) for part in parts)
        return dict(zip(self.names, copies, strict=True))

    def from_hugging_face(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Theirs → ours."""
        parts = [tensors[name] for name in self.names]
        return self.kind.from_hugging_face(torch.cat(parts) if self.rows else parts[0])


def expand(rules: Sequence[Rule], num_layers: int) -> Iterator[Rule]:
    """Writes each layer's rules out."""
    for rule in rules:
        if "{i}" not in rule.ours:
            yield rule
            continue
        for layer in range(num_layers):
            names = tuple(name.format(i=layer) for name in rule.names)
            theirs = names[0] if isinstance(rule.theirs, str) else names
            yield replace(rule, ours=rule.ours.format(i=layer), theirs=theirs)


def same_rules(ours: str, theirs: str, *, bias: bool = True) -> tuple[Rule, ...]:
    """A weight and its bias that are the same on both sides; both names end before "weight"."""
    return tuple(
        Rule(f"{ours}{part}", f"{theirs}{part}", Same())
        for part in (("weight", "bias") if bias else ("weight",))
    )
