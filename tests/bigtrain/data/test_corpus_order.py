"""The order of samples is a permutation in every epoch, and depends only on its key."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.data.corpus_order import BLOCKS_MIXED, BucketOrder, WindowOrder, permute, window_order


def _windows(order: WindowOrder, samples: range | list[int]) -> list[int]:
    units = np.array(samples, dtype=np.int64)
    return order.rows(units, np.zeros_like(units))[1].tolist()


def _order(count: int, seed: int = 1, fingerprint: str = "f", length: int = 8) -> WindowOrder:
    return window_order(
        count, seed=seed, fingerprint=fingerprint, sequence_length=length, shuffle="windows"
    )


@settings(deadline=None)
@given(size=st.integers(1, 3000), key=st.binary(min_size=1, max_size=32))
def test_permute_is_a_bijection(size: int, key: bytes) -> None:
    sent = permute(np.arange(size), size=size, key=key)
    assert sorted(sent.tolist()) == list(range(size))


@settings(deadline=None)
@given(
    count=st.integers(1, 400),
    block=st.integers(0, 40),
    mixed=st.integers(1, 5),
    epoch=st.integers(0, 5),
)
def test_each_epoch_visits_every_window_once(
    count: int, block: int, mixed: int, epoch: int
) -> None:
    order = WindowOrder(count, identity="x", windows_per_block=block, blocks_mixed=mixed)
    visited = _windows(order, range(epoch * count, (epoch + 1) * count))
    assert sorted(visited) == list(range(count))


@settings(deadline=None)
@given(data=st.data(), block=st.sampled_from([0, 7]))
def test_a_sample_does_not_depend_on_the_other_requested_samples(
    data: st.DataObject, block: int
) -> None:
    order = WindowOrder(100, identity="x", windows_per_block=block, blocks_mixed=3)
    samples = data.draw(st.lists(st.integers(0, 350), min_size=1, max_size=20))
    together = _windows(order, samples)
    assert together == [_windows(order, [sample])[0] for sample in samples]


def test_seed_corpus_length_and_epoch_each_change_the_order() -> None:
    first = _windows(_order(500), range(500))
    others = [
        _windows(_order(500, seed=2), range(500)),
        _windows(_order(500, fingerprint="g"), range(500)),
        _windows(_order(500, length=16), range(500)),
        _windows(_order(500), range(500, 1000)),
    ]
    assert all(other != first for other in others)


@pytest.mark.parametrize("shuffle", ["blocks", "windows"])
def test_the_order_looks_shuffled(shuffle: str) -> None:
    order = window_order(100_000, seed=1, fingerprint="f", sequence_length=4096, shuffle=shuffle)
    windows = np.array(_windows(order, range(10_000)))
    # For a random permutation, |correlation| exceeds 0.05 with probability 1e-6.
    assert abs(np.corrcoef(windows, np.arange(10_000))[0, 1]) < 0.05
    assert (np.diff(windows) == 1).sum() < 15


def test_shuffled_blocks_give_long_reads_and_are_mixed() -> None:
    order = window_order(1 << 20, seed=1, fingerprint="f", sequence_length=4096, shuffle="blocks")
    per_block = (1 << 20) // 4096
    group = np.array(_windows(order, range(per_block * BLOCKS_MIXED)))
    ordered = np.sort(group)
    runs = np.split(ordered, np.flatnonzero(np.diff(ordered) != 1) + 1)
    assert len(runs) <= BLOCKS_MIXED + 1  # One block may wrap around the end.
    first_batch = group[:256] // per_block
    assert len(set(first_batch.tolist())) > BLOCKS_MIXED * 0.9


def test_the_windows_outside_full_blocks_change_in_the_next_epoch() -> None:
    order = WindowOrder(103, identity="x", windows_per_block=10, blocks_mixed=2)
    ends = [set(_windows(order, range(e * 103 + 100, e * 103 + 103))) for e in range(6)]
    assert len(set.union(*ends)) > 9


@pytest.mark.parametrize("shuffle", ["blocks", "windows"])
def test_a_sample_far_into_a_huge_corpus_is_found_quickly(shuffle: str) -> None:
    order = window_order(10**12, seed=1, fingerprint="f", sequence_length=8, shuffle=shuffle)
    assert 0 <= _windows(order, [9 * 10**11])[0] < 10**12


BUCKETS = [(8, 3), (16, 21), (24, 40), (32, 7)]


def _batches(order: BucketOrder, batch: int, units: range) -> list[list[int]]:
    numbers = np.repeat(np.array(units), batch)
    slots = np.tile(np.arange(batch), len(units))
    return order.rows(numbers, slots)[1].reshape(-1, batch).tolist()


def test_a_batch_has_rows_of_one_bucket_and_each_row_at_most_once_per_epoch() -> None:
    order = BucketOrder(BUCKETS, batch=8, identity="x")
    # 3 rows are too few for a batch and join the 21 rows; 7 rows join the 40.
    assert order.units_per_epoch == 24 // 8 + 47 // 8
    batches = _batches(order, 8, range(order.units_per_epoch))
    assert all(max(batch) < 24 or min(batch) >= 24 for batch in batches)
    assert max(Counter(row for batch in batches for row in batch).values()) == 1


def test_rows_left_out_of_an_epoch_come_in_a_later_one() -> None:
    order = BucketOrder(BUCKETS, batch=8, identity="x")
    seen = {row for batch in _batches(order, 8, range(order.units_per_epoch * 12)) for row in batch}
    assert seen == set(range(71))
