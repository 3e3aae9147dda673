"""Cuts the optimizer's flat memory into boxes of the global tensors, as views, without a copy.

A *shard* is a tensor rank's part of a parameter, stored in flat memory. With ZeRO a replica rank
keeps only a *fragment* of the shard: a flat range. A *box* is an n-dimensional block of a global
tensor::

    shard, 3 × 4 of a global tensor       fragment: elements 2 to 8     three boxes
    0  1  2  3                            ·  ·  2  3                    1 × 2 at (0, 2)
    4  5  6  7                            4  5  6  7                    1 × 4 at (1, 0)
    8  9 10 11                            8  ·  ·  ·                    1 × 1 at (2, 0)

The offset of a box counts from the start of the global tensor.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from bigtrain.engine.private import Fragment, GradientFragment
from bigtrain.models.shards import Shard

_Block = tuple[tuple[int, ...], tuple[int, ...]]
"""Offset and size, one number for each axis."""


@dataclass(frozen=True, slots=True)
class StateBox:
    """One box of a global tensor: its fp32 master values and Adam moments, all three views."""

    name: str
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    master: torch.Tensor
    first_moment: torch.Tensor
    second_moment: torch.Tensor
    is_first_replica: bool
    """Whether to count and save this box; True on one of the ranks that hold the same box."""


@dataclass(frozen=True, slots=True)
class GradientBox:
    """One box of a global tensor's gradient: fp32, reduced over all ranks, not yet clipped."""

    name: str
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    values: torch.Tensor
    is_first_replica: bool
    """Whether to count this box; True on one of the ranks that hold the same box."""


def cut_state(
    shards: Mapping[torch.nn.Parameter, Sequence[Shard]],
    fragments: Iterable[tuple[torch.nn.Parameter, Fragment]],
) -> list[StateBox]:
    """All boxes whose state this rank keeps.

    Args:
        shards: Which parts of the global tensors each local parameter holds.
        fragments: Which flat range of each parameter this rank keeps.
    """
    return [
        StateBox(
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


def cut_gradients(
    shards: Mapping[torch.nn.Parameter, Sequence[Shard]],
    fragments: Iterable[tuple[torch.nn.Parameter, GradientFragment]],
) -> list[GradientBox]:
    """All boxes whose gradient this rank keeps.

    Args:
        shards: Which parts of the global tensors each local parameter holds.
        fragments: Which flat range of each parameter's gradient this rank keeps.
    """
    return [
        GradientBox(
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


def blocks_of_range(shape: Sequence[int], start: int, stop: int) -> Iterator[_Block]:
    """Splits the flat range ``[start, stop)`` of a row-major array into blocks, in flat order.

    A range of a matrix has at most three blocks: the end of a row, full rows, the start of a row.
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


def _in_row(shape: Sequence[int], row: int, start: int, stop: int) -> Iterator[_Block]:
    for offset, size in blocks_of_range(shape[1:], start, stop):
        yield (row, *offset), (1, *size)


def _cut(
    shard: Shard, fragment_start: int, fragment_numel: int
) -> Iterator[tuple[tuple[int, ...], Callable[[torch.Tensor], torch.Tensor]]]:
    """Yields each box's global offset, and a function that views a fragment's values as the box."""
    start = max(fragment_start, shard.start)
    stop = min(fragment_start + fragment_numel, shard.start + math.prod(shard.shape))
    position = start - fragment_start
    for offset, size in blocks_of_range(shard.shape, start - shard.start, stop - shard.start):
        last = position + math.prod(size)
        yield (
            tuple(a + b for a, b in zip(shard.offset, offset, strict=True)),
            partial(_view, first=position, last=last, shape=size),
        )
        position = last


def _view(flat: torch.Tensor, *, first: int, last: int, shape: tuple[int, ...]) -> torch.Tensor:
    return flat[first:last].view(shape)
