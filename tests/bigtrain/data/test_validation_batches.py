"""Validation counts each sample of any length once, and all ranks use the same row width."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bigtrain.config import RunConfig
from bigtrain.config.layout import Layout
from bigtrain.data.batches import TrainingData
from data_tools.samples.build_sample_table import build_sample_table
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from tests.runs import tiny_config

LENGTH = 128
SAMPLES = 13


@pytest.fixture(scope="module")
def planned(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus with sentences, a table of packed rows and a table of pairs."""
    out = tmp_path_factory.mktemp("planned") / "corpus"
    tokenizer = corpus / "train" / "tokenizer.model"
    texts = [str(corpus.parent / "texts")]
    options = ShardOptions(validation_percent=20, sentences=True)
    shard_corpus(texts, tokenizer=tokenizer, out=out, options=options)
    for split in ("train", "validation"):
        for mode in ("pad", "pairs"):
            build_sample_table(out / split, mode=mode, sequence_length=LENGTH)
    return out


def _data(folder: Path, packing: str, *, copies: int = 1, rank: int = 0) -> TrainingData:
    data = {"sequence_length": LENGTH, "workers": 0, "packing": packing}
    kind = "bert" if packing == "pairs" else "gpt"
    model = {"kind": kind, "max_sequence_length": LENGTH}
    config: RunConfig = tiny_config(folder, Path("unused"), data=data, model=model)
    assert config.validation.samples == SAMPLES
    return TrainingData(config, layout=Layout(data=copies), data_rank=rank)


def _batches(data: TrainingData) -> list[Any]:
    [source] = data.validation_sources
    return [*data.validation_batches(source)]


def _weights(batches: list[Any]) -> list[torch.Tensor]:
    """The target weights of each row, in order."""
    return [row for batch in batches for m in batch.microbatches for row in m.weights]


@pytest.mark.parametrize("copies", [1, 2])
def test_rows_past_the_last_sample_have_no_targets(planned: Path, copies: int) -> None:
    shares = [_batches(_data(planned, "pad", copies=copies, rank=rank)) for rank in range(copies)]
    counted = []
    for batches in zip(*shares, strict=True):
        rows = [int(row.sum()) for row in _weights(list(batches))]
        assert {batch.num_targets for batch in batches} == {sum(rows)}
        counted += rows
    assert len(counted) == 16
    assert sum(row > 0 for row in counted) == SAMPLES


def test_pairs_past_the_last_sample_have_no_targets(planned: Path) -> None:
    guessed = [int(row.sum()) for row in _weights(_batches(_data(planned, "pairs")))]
    assert len(guessed) == 16
    assert all(guessed[:SAMPLES])
    assert not any(guessed[SAMPLES:])


def test_pairs_past_the_last_sample_are_not_counted_as_pairs(planned: Path) -> None:
    batches = _batches(_data(planned, "pairs"))
    counted = [n for batch in batches for m in batch.microbatches for n in m.pair_weights.tolist()]
    assert counted == [1.0] * SAMPLES + [0.0] * (16 - SAMPLES)


def test_several_ranks_count_the_same_validation_pairs_as_one_rank(planned: Path) -> None:
    single, *shared = (
        _weights(_batches(_data(planned, "pairs", copies=copies, rank=rank)))
        for copies, rank in [(1, 0), (2, 0), (2, 1)]
    )
    assert sum(row.sum() for share in shared for row in share) == sum(row.sum() for row in single)


def test_ranks_with_only_short_pairs_use_the_same_row_width(planned: Path) -> None:
    ranks = [_data(planned, "pairs", copies=4, rank=rank) for rank in range(4)]
    longest_differ = 0
    for consumed in range(0, 15 * 8, 8):
        batches = [rank.batch(consumed).microbatches for rank in ranks]
        assert len({m.tokens.shape[1] for batch in batches for m in batch}) == 1
        longest = [max(int(m.padding_mask.sum(1).max()) for m in batch) for batch in batches]
        longest_differ += len({-(-length // 8) for length in longest}) > 1
    assert longest_differ
