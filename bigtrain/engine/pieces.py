"""Cuts the optimizer's flat memory into boxes of the global tensors, as views, without a copy."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from bigtrain.engine.private import Fragment, GradientFragment
from bigtrain.models.shards import Shard

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offset and size, one number for each axis."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One box of a global tensor: its fp32 master values and Adam moments, views all three."""

    name: str
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    master: torch.Tensor
    first_moment: torch.Tensor
    second_moment: torch.Tensor
    is_first_replica: bool


@dataclass(frozen=True, slots=True)
class GradientPiece:
    """One box of a global tensor's gradient: fp32, reduced over all ranks, not yet clipped."""

    name: str
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    values: torch.Tensor
    is_first_replica: bool


def cut_pieces(
    shards: Mapping[torch.nn.Parameter, Sequence[Shard]],
    fragments: Iterable[tuple[torch.nn.Parameter, Fragment]],
) -> list[Piece]:
    """All boxes whose state this rank keeps.

    Args:
        shards: What each local parameter is of the global tensors.
        fragments: Which flat range of each parameter this rank keeps.
    """
    return [
        Piece(
            name=shard.name,
            global_shape=shard.global_shape,
            offset=offset,
            master=view(fragment.master),
            first_moment=view(fragment.first_moment),
            second_moment=view(fragment.second_moment),
            is_first_replica=shard.is_first_replica,
        )
        for parameter, fragment in fragments
        for shard in shards[parameter]
        for offset, view in _cut(shard, fragment.start, fragment.master.numel())
    ]


def cut_gradient_pieces(
    shards: Mapping[torch.nn.Parameter, Sequence[Shard]],
    fragments: Iterable[tuple[torch.nn.Parameter, GradientFragment]],
) -> list[GradientPiece]:
    """All boxes whose gradient this rank keeps.

    Args:
        shards: What each local parameter is of the global tensors.
        fragments: Which flat range of each parameter's gradient this rank keeps.
    """
    return [
        GradientPiece(
            name=shard.name,
            global_shape=shard.global_shape,
            offset=offset,
            values=view(fragment.values),
            is_first_replica=shard.is_first_replica,
        )
        for parameter, fragment in fragments
        for shard in shards[parameter]
        for offset, view in _cut(shard, fragment.start, fragment.values.numel())
    ]


def boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[Box]:
    """Splits the flat range ``[start, stop)`` of a row-major array into boxes, in flat order.

    A range of a matrix is at most three: the rest of a row, whole rows, the start of a row.
    """
    if start >= stop:
        return
    if len(shape) <= 1:
        yield ((start,), (stop - start,)) if shape else ((), ())
        return
    inner = math.prod(shape[1:])
    first_row, first_column = divmod(start, inner)
    last_row, last_column = divmod(stop, inner)
    if first_row == last_row:
        yield from _in_row(shape, first_row, first_column, last_column)
        return
    if first_column:
        yield from _in_row(shape, first_row, first_column, inner)
        first_row += 1
    if last_row > first_row:
        zeros = (0,) * (len(shape) - 1)
        yield (first_row, *zeros), (last_row - first_row, *shape[1:])
    yield from _in_row(shape, last_row, 0, last_column)


def _in_row(shape: Sequence[int], row: int, start: int, stop: int) -> Iterator[Box]:
    for offset, size in boxes(shape[1:], start, stop):
        yield (row, *offset), (1, *size)


def _cut(
    shard: Shard, fragment_start: int, fragment_numel: int
) -> Iterator[tuple[tuple[int, ...], Callable[[torch.Tensor], torch.Tensor]]]:
    """Yields the global offset of each box, and what makes its view of the fragment's values."""
    start = max(fragment_start, shard.start)
    stop = min(fragment_start + fragment_numel, shard.start + math.prod(shard.shape))
    position = start - fragment_start
    for offset, size in boxes(shard.shape, start - shard.start, stop - shard.start):
        last = position + math.prod(size)
        yield (
            tuple(a + b for a, b in zip(shard.offset, offset, strict=True)),
            partial(_view, first=position, last=last, shape=size),
        )
        position = last


def _view(flat: torch.Tensor, *, first: int, last: int, shape: tuple[int, ...]) -> torch.Tensor:
    return flat[first:last].view(shape)
