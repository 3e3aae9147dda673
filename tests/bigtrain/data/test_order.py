"""The order of samples is a permutation in every epoch, and depends on nothing but its key."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.data.order import SampleOrder, permute


def _order(num_windows: int, seed: int = 1, fingerprint: str = "f", length: int = 8) -> SampleOrder:
    return SampleOrder(
        num_windows=num_windows, seed=seed, fingerprint=fingerprint, sequence_length=length
    )


@settings(deadline=None)
@given(size=st.integers(1, 3000), key=st.binary(min_size=1, max_size=32))
def test_permute_sends_every_position_somewhere_else_once(size: int, key: bytes) -> None:
    sent = permute(np.arange(size), size=size, key=key)
    assert sorted(sent.tolist()) == list(range(size))


@settings(deadline=None)
@given(num_windows=st.integers(1, 300), epoch=st.integers(0, 5), seed=st.integers(0, 2**62))
def test_each_epoch_visits_every_window_once(num_windows: int, epoch: int, seed: int) -> None:
    samples = range(epoch * num_windows, (epoch + 1) * num_windows)
    assert sorted(_order(num_windows, seed).windows(samples).tolist()) == list(range(num_windows))


@settings(deadline=None)
@given(data=st.data())
def test_a_sample_is_the_same_whoever_asks_and_whatever_else_is_asked(data: st.DataObject) -> None:
    order = _order(100)
    samples = data.draw(st.lists(st.integers(0, 350), min_size=1, max_size=20))
    together = order.windows(samples).tolist()
    assert together == [int(order.windows([sample])[0]) for sample in samples]


def test_seed_corpus_length_and_epoch_each_change_the_order() -> None:
    first = _order(500).windows(range(500)).tolist()
    others = [
        _order(500, seed=2).windows(range(500)),
        _order(500, fingerprint="g").windows(range(500)),
        _order(500, length=16).windows(range(500)),
        _order(500).windows(range(500, 1000)),
    ]
    assert all(other.tolist() != first for other in others)


def test_the_order_looks_shuffled() -> None:
    windows = _order(10_000).windows(range(10_000))
    # Of a random permutation, |correlation| exceeds 0.05 once in a million.
    assert abs(np.corrcoef(windows, np.arange(10_000))[0, 1]) < 0.05
    assert (np.diff(windows) == 1).sum() < 10


def test_a_sample_far_into_a_huge_corpus_is_found_at_once() -> None:
    order = _order(10**12)
    window = int(order.windows([9 * 10**11])[0])
    assert 0 <= window < 10**12
