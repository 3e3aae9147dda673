"""The order depends on epoch, group, phase and seed; batches of a bucket keep their positions."""

import numpy as np

from bigtrain.config.data import DataConfig
from bigtrain.data.corpus_order import BucketOrder, WindowOrder
from bigtrain.data.mixture import UNITS_PER_BLOCK, Mixture, MixturePhase, counts_in_block
from bigtrain.data.sample_order import SampleOrder

BLOCK, WINDOWS = 10, 1000


def _blocks_of_epoch(epoch: int) -> tuple[list[int], list[list[int]]]:
    """The distance of each block from the first, and the order of its windows."""
    order = WindowOrder(WINDOWS, identity="x", windows_per_block=BLOCK, blocks_mixed=1)
    units = np.arange(epoch * WINDOWS, (epoch + 1) * WINDOWS)
    blocks = order.rows(units, np.zeros_like(units))[1].reshape(-1, BLOCK).tolist()
    # The start of an epoch's blocks is shifted, so blocks are identified by distances.
    firsts = [next(w for w in b if (w - 1) % WINDOWS not in b) for b in blocks]
    arranged = [[(w - f) % WINDOWS for w in b] for b, f in zip(blocks, firsts, strict=True)]
    return [(first - firsts[0]) % WINDOWS for first in firsts], arranged


def test_each_epoch_has_another_order_of_blocks() -> None:
    (one, _), (other, _) = _blocks_of_epoch(0), _blocks_of_epoch(1)
    assert sorted(one) == sorted(other) == list(range(0, WINDOWS, BLOCK))
    assert one != other


def test_each_group_and_epoch_has_another_order_of_windows() -> None:
    (_, one), (_, other) = _blocks_of_epoch(0), _blocks_of_epoch(1)
    assert one[0] != one[1]
    assert one[0] != other[0]


def test_each_epoch_has_another_order_of_short_and_long_batches() -> None:
    order = BucketOrder([(8, 80), (16, 80), (24, 80)], batch=8, identity="x")
    units = np.arange(2 * order.units_per_epoch)
    one, other = (order.rows(units, np.zeros_like(units))[1] // 80).reshape(2, -1).tolist()
    assert sorted(one) == sorted(other)
    assert one != other


def _sources(stages: list[MixturePhase], *, seed: int = 1) -> list[list[int]]:
    mixed = Mixture(stages, seed=seed).assign(np.arange(len(stages) * UNITS_PER_BLOCK))[0]
    blocks: list[list[int]] = mixed.reshape(len(stages), -1).tolist()
    return blocks


def test_another_seed_gives_another_order_of_sources() -> None:
    stage = MixturePhase(0, counts_in_block([1, 1]))
    assert _sources([stage], seed=1) == _sources([stage], seed=1)
    assert _sources([stage], seed=1) != _sources([stage], seed=2)


def test_a_phase_with_the_same_weights_has_another_order_of_sources() -> None:
    counts = counts_in_block([1, 1])
    one, other = _sources([MixturePhase(0, counts), MixturePhase(UNITS_PER_BLOCK, counts)])
    assert one != other


def _batches_order(*, skip: tuple[dict[str, int], ...] = ()) -> SampleOrder:
    """Batches of 8 samples: from corpus a, and from sample 64 on from corpus b."""
    stages = [
        {"sources": [{"corpus": "a"}]},
        {"start_sample": 64, "sources": [{"corpus": "b"}]},
    ]
    data = DataConfig.model_validate({"sequence_length": 8, "stages": stages, "skip": skip})
    orders = [BucketOrder([(8, rows)], batch=8, identity=str(rows)) for rows in (160, 320)]
    return SampleOrder(data, orders, seed=1, samples_per_unit=8)


def test_a_phase_of_bucket_batches_starts_at_its_sample() -> None:
    sources = _batches_order().locate(np.arange(200)).sources
    assert sources.tolist() == [0] * 64 + [1] * 136


def test_epochs_count_full_batches_including_skipped_ones() -> None:
    order = _batches_order(skip=({"first_sample": 8, "samples": 16},))
    sources = _batches_order().locate(np.arange(400)).sources
    for consumed in (8, 16, 48, 56, 200):
        last = int(order.locate(np.array([consumed - 1])).numbers[0])
        read = np.bincount(sources[: last + 1], minlength=2)
        assert order.epochs(consumed) == [read[0] / 160, read[1] / 320]
    assert order.epochs(16) == [32 / 160, 0.0]
