"""A flat range of an array is split into blocks that hold exactly its elements, in order."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigtrain.engine.boxes import blocks_of_range, cut_state
from bigtrain.engine.private import Fragment
from bigtrain.models.shards import Shard

shapes = st.lists(st.integers(1, 6), min_size=0, max_size=4)


@given(shape=shapes, data=st.data())
def test_blocks_hold_exactly_the_range(shape: list[int], data: st.DataObject) -> None:
    size = math.prod(shape)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    array = np.arange(size).reshape(shape)
    found = [
        array[tuple(slice(o, o + n) for o, n in zip(offset, sizes, strict=True))].reshape(-1)
        for offset, sizes in blocks_of_range(shape, start, stop)
    ]
    assert [int(v) for part in found for v in part] == list(range(start, stop))


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), data=st.data())
def test_a_range_of_a_matrix_is_at_most_three_blocks(
    rows: int, columns: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, rows * columns))
    stop = data.draw(st.integers(start, rows * columns))
    assert len(list(blocks_of_range((rows, columns), start, stop))) <= 3


def test_boxes_are_views_at_their_global_offsets() -> None:
    parameter = torch.nn.Parameter(torch.zeros(10))
    shards = [
        Shard("a", (8, 3), (4, 0), (2, 3), start=0, is_first_replica=True),
        Shard("b", (8, 2), (0, 0), (2, 2), start=6, is_first_replica=False),
    ]
    flats = [torch.arange(5.0) + 10 * n for n in range(3)]
    fragment = Fragment(2, *flats)
    boxes = cut_state({parameter: shards}, [(parameter, fragment)])
    assert [(b.name, b.offset, tuple(b.master.shape)) for b in boxes] == [
        ("a", (4, 2), (1, 1)),
        ("a", (5, 0), (1, 3)),
        ("b", (0, 0), (1, 1)),
    ]
    assert [b.second_moment.flatten().tolist() for b in boxes] == [[20], [21, 22, 23], [24]]
    boxes[1].master.fill_(-1)
    assert flats[0].tolist() == [0, -1, -1, -1, 4]
