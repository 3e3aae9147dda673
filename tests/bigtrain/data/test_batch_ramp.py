"""Batches of growing size read the same stream of samples as batches of one size."""

from itertools import pairwise
from pathlib import Path

import pytest

from bigtrain.config import RunConfig
from bigtrain.config.layout import Layout
from bigtrain.data.batches import TrainingData
from tests.runs import tiny_config

STEPS = 14


def _config(corpus: Path, *, ramp: bool = True, workers: int = 1) -> RunConfig:
    train = {"global_batch_size": 24, "micro_batch_size": 2}
    growth = {"batch_ramp": {"start": 8, "increment": 8, "samples": 100}} if ramp else {}
    return tiny_config(corpus, Path("unused"), train={**train, **growth}, data={"workers": workers})


def _data(config: RunConfig, *, copies: int = 1, rank: int = 0) -> TrainingData:
    return TrainingData(config, layout=Layout(data=copies), data_rank=rank)


def _borders(config: RunConfig) -> list[int]:
    """Samples consumed before each step."""
    borders = [0]
    while len(borders) < STEPS:
        borders.append(borders[-1] + config.batch_size(borders[-1]))
    return borders


def _rows(data: list[TrainingData], consumed: int) -> list[list[int]]:
    """The samples of a batch in order, from all ranks."""
    shares = [rank.batch(consumed).microbatches for rank in data]
    return [
        row for passes in zip(*shares, strict=True) for m in passes for row in m.tokens.tolist()
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_samples_equal_those_of_batches_of_one_size(corpus: Path, workers: int) -> None:
    config = _config(corpus, workers=workers)
    borders = _borders(config)
    assert {b - a for a, b in pairwise(borders)} == {8, 16, 24}
    growing, data = [], _data(config)
    for consumed in borders:
        rows = _rows([data], consumed)
        assert len(rows) == config.batch_size(consumed)
        growing += rows
    data.close()
    even = _data(_config(corpus, ramp=False))
    expected = [row for step in range(STEPS) for row in _rows([even], 24 * step)]
    even.close()
    assert growing == expected[: len(growing)]


def test_ranks_divide_each_batch_and_a_resume_inside_the_ramp_reads_the_same_samples(
    corpus: Path,
) -> None:
    config = _config(corpus)
    borders = _borders(config)
    single = _data(config)
    expected = [_rows([single], consumed) for consumed in borders]
    for first in (0, 3, 5):
        ranks = [_data(config, copies=2, rank=rank) for rank in range(2)]
        for step in range(first, STEPS):
            assert _rows(ranks, borders[step]) == expected[step]
        for rank in ranks:
            rank.close()
    single.close()


def test_every_target_of_a_small_batch_counts(corpus: Path) -> None:
    data = _data(_config(corpus))
    assert data.batch(0).num_targets == 8 * 32
    assert data.sample_numbers(8) == (8, 15)
    data.close()


def test_validation_uses_the_full_batch_size(corpus: Path) -> None:
    data = _data(_config(corpus))
    [batch] = data.validation_batches(data.validation_sources[0])
    assert len(batch.microbatches) == 12
    data.close()
