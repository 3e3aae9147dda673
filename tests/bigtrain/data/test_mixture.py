"""Mixtures keep their weights in every block, read sources in order, and allow later changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.config import ConfigError
from bigtrain.config.data import DataConfig
from bigtrain.data.corpus_order import window_order
from bigtrain.data.mixture import UNITS_PER_BLOCK, Mixture, MixturePhase, counts_in_block
from bigtrain.data.sample_order import SampleOrder

weights = st.lists(st.floats(0.001, 1000), min_size=1, max_size=6)


@given(weights=weights)
def test_the_integer_counts_of_a_block_differ_from_the_weights_by_less_than_one(
    weights: list[float],
) -> None:
    counts = counts_in_block(weights)
    assert sum(counts) == UNITS_PER_BLOCK
    exact = np.array(weights) / sum(weights) * UNITS_PER_BLOCK
    assert min(counts) >= 1
    fits = exact >= 1  # A source with a share below one gets one sample, taken from the others.
    assert (np.abs(np.array(counts) - exact)[fits] < 1 + (~fits).sum()).all()


@settings(deadline=None, max_examples=30)
@given(
    weights=st.lists(st.tuples(*[st.integers(0, 5)] * 3).filter(any), min_size=1, max_size=4),
    lengths=st.lists(st.integers(1, 2500), min_size=4, max_size=4),
)
def test_each_source_is_read_without_gaps_or_repeats_over_all_phases(
    weights: list[tuple[int, ...]], lengths: list[int]
) -> None:
    stages, first = [], 0
    for shares, length in zip(weights, lengths, strict=False):
        chosen = [share for share in shares if share]
        counts = iter(counts_in_block(chosen))
        stages.append(MixturePhase(first, tuple(next(counts) if s else 0 for s in shares)))
        first += length
    mixture = Mixture(stages, seed=3)
    sources, indices = mixture.assign(np.arange(first + 100))
    for source in range(3):
        mine = indices[sources == source]
        assert mine.tolist() == list(range(len(mine)))
    assert mixture.taken(first).tolist() == np.bincount(sources[:first], minlength=3).tolist()


def test_every_block_holds_each_source_by_its_weight() -> None:
    mixture = Mixture([MixturePhase(0, counts_in_block([3, 1]))], seed=1)
    sources, _ = mixture.assign(np.arange(10 * UNITS_PER_BLOCK))
    per_block = sources.reshape(10, UNITS_PER_BLOCK).sum(axis=1)
    assert (per_block == UNITS_PER_BLOCK // 4).all()
    assert len({tuple(row) for row in sources.reshape(10, -1).tolist()}) == 10


def _sample_order(counts: dict[str, int], unit: int = 1, **data: object) -> SampleOrder:
    config = DataConfig.model_validate({"sequence_length": 8, **data})
    orders = [
        window_order(count, seed=1, fingerprint=name, sequence_length=8, shuffle="windows")
        for name, count in counts.items()
    ]
    return SampleOrder(config, orders, seed=1, samples_per_unit=unit)


STAGES = [
    {"sources": [{"corpus": "a"}]},
    {"start_sample": 50, "sources": [{"corpus": "a", "weight": 2.0}, {"corpus": "b"}]},
]


def _triples(order: SampleOrder, samples: range) -> list[tuple[int, int, int]]:
    locations = order.locate(np.array(samples))
    return list(
        zip(
            locations.sources.tolist(),
            locations.epochs.tolist(),
            locations.rows.tolist(),
            strict=True,
        )
    )


def test_changed_weights_repeat_no_sample_within_an_epoch_of_its_source() -> None:
    order = _sample_order({"a": 500, "b": 300}, stages=STAGES)
    seen = _triples(order, range(600))
    assert len(set(seen)) == 600
    assert {source for source, _, _ in seen[:50]} == {0}
    assert {source for source, _, _ in seen[50:]} == {0, 1}


def test_a_later_phase_does_not_change_earlier_samples() -> None:
    single = _sample_order({"a": 500}, stages=STAGES[:1])
    mixed = _sample_order({"a": 500, "b": 300}, stages=STAGES)
    assert _triples(single, range(50)) == _triples(mixed, range(50))


@settings(deadline=None)
@given(
    skips=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), max_size=3),
)
def test_only_the_skipped_samples_are_left_out(skips: list[tuple[int, int]]) -> None:
    ranges, end = [], 0
    for gap, samples in skips:
        ranges.append({"first_sample": end + gap, "samples": samples})
        end += gap + samples
    order = _sample_order({"a": 1000}, train="a", skip=ranges)
    numbers = order.locate(np.arange(200)).numbers.tolist()
    left_out = {
        n for r in ranges for n in range(r["first_sample"], r["first_sample"] + r["samples"])
    }
    expected = [n for n in range(1000) if n not in left_out][:200]
    assert numbers == expected


def test_samples_around_a_chunk_border_equal_single_lookups() -> None:
    order = _sample_order({"a": 10_000}, train="a")
    together = _triples(order, range(4000, 4200))
    assert together == [
        triple for n in range(4000, 4200) for triple in _triples(order, range(n, n + 1))
    ]


def test_epochs_are_reported_for_each_source() -> None:
    order = _sample_order({"a": 100, "b": 300}, stages=STAGES)
    assert order.epochs(0) == [0.0, 0.0]
    assert order.epochs(50) == [0.5, 0.0]
    taken = order.mixture.taken(1000)
    assert order.epochs(1000) == [taken[0] / 100, taken[1] / 300]


def test_phases_and_skips_must_start_at_a_batch_if_batches_are_from_one_bucket() -> None:
    with pytest.raises(ConfigError, match=r"start_sample=50 is not a multiple of .*=8: .* try 48"):
        _sample_order({"a": 100, "b": 100}, unit=8, stages=STAGES)
    with pytest.raises(ConfigError, match=r"data\.skip: samples=3 is not a multiple"):
        _sample_order({"a": 100}, unit=8, train="a", skip=[{"first_sample": 8, "samples": 3}])
