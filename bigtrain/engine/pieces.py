"""Cuts the optimizer's flat memory into boxes of the global tensors, as views, without a copy."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from bigtrain.engine.private import Fragment
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
        piece
        for parameter, fragment in fragments
        for shard in shards[parameter]
        for piece in _cut(shard, fragment)
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


def _cut(shard: Shard, fragment: Fragment) -> Iterator[Piece]:
    numel = math.prod(shard.shape)
    start = max(fragment.start, shard.start)
    stop = min(fragment.start + fragment.master.numel(), shard.start + numel)
    position = start - fragment.start
    for offset, size in boxes(shard.shape, start - shard.start, stop - shard.start):
        length = math.prod(size)

        def view(
            flat: torch.Tensor,
            first: int = position,
            last: int = position + length,
            shape: tuple[int, ...] = size,
        ) -> torch.Tensor:
            return flat[first:last].view(shape)

        yield Piece(
            name=shard.name,
            global_shape=shard.global_shape,
            offset=tuple(a + b for a, b in zip(shard.offset, offset, strict=True)),
            master=view(fragment.master),
            first_moment=view(fragment.first_moment),
            second_moment=view(fragment.second_moment),
            is_first_replica=shard.is_first_replica,
        )
        position += length
