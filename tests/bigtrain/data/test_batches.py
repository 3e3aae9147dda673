"""Which samples a rank reads does not depend on how many ranks there are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bigtrain.config import ConfigError, RunConfig
from bigtrain.data.batches import TrainingData
from bigtrain.parallel.layout import Layout
from data_tools.corpus import open_corpus
from data_tools.errors import InputError
from data_tools.tokenizer import train_tokenizer
from tests.runs import tiny_config


def _data(config: RunConfig, copies: int, rank: int) -> TrainingData:
    return TrainingData(config, layout=Layout(tensor=1, pipeline=1, data=copies), data_rank=rank)


def _rows_of_batch(config: RunConfig, copies: int, consumed: int) -> list[list[int]]:
    """The batch's samples in order of their numbers."""
    shares = [_data(config, copies, rank).batch(consumed) for rank in range(copies)]
    return [
        row for passes in zip(*shares, strict=True) for m in passes for row in m.tokens.tolist()
    ]


@pytest.mark.parametrize("copies", [1, 2, 4])
def test_a_batch_holds_the_same_samples_for_any_number_of_ranks(corpus: Path, copies: int) -> None:
    config = tiny_config(corpus, Path("unused"))
    assert _rows_of_batch(config, copies, 16) == _rows_of_batch(config, 1, 16)


def test_the_targets_are_the_next_tokens_of_the_stream(corpus: Path) -> None:
    config = tiny_config(corpus, Path("unused"))
    data = _data(config, 1, 0)
    microbatch = data.batch(0)[0]
    window = int(data.order.windows([0])[0])
    with open_corpus(corpus / "train") as stream:
        expected = stream.read(window * 32, window * 32 + 33).astype(np.int64)
    assert microbatch.tokens[0].tolist() == expected[:-1].tolist()
    assert microbatch.targets[0].tolist() == expected[1:].tolist()
    assert microbatch.weights.eq(1).all()


@pytest.mark.parametrize("copies", [1, 2])
def test_validation_counts_each_sample_once(corpus: Path, copies: int) -> None:
    config = tiny_config(corpus, Path("unused"))
    assert config.validation.samples == 13
    counted = torch.zeros(())
    shapes = set()
    for rank in range(copies):
        for microbatches in _data(config, copies, rank).validation_batches():
            shapes.add(len(microbatches))
            counted += sum(m.weights[:, 0].sum() for m in microbatches)
    assert counted == 13
    assert shapes == {config.num_microbatches(copies)}


def test_a_corpus_shorter_than_one_sample_is_refused(corpus: Path) -> None:
    long = {
        "model": {**tiny_config(corpus, Path()).model.model_dump(), "max_sequence_length": 10**6}
    }
    data = {"train": str(corpus / "train"), "sequence_length": 10**6}
    with pytest.raises(
        ConfigError, match=r"tokens, fewer than one sample of data\.sequence_length"
    ):
        _data(tiny_config(corpus, Path(), **long, data=data), 1, 0)


def test_a_tokenizer_that_the_corpus_was_not_made_with_is_refused(
    corpus: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.model"
    train_tokenizer(["an other text, an other vocabulary. " * 50], other, vocab_size=345)
    config = tiny_config(corpus, Path("unused"), data={"tokenizer": str(other)})
    with pytest.raises(
        ConfigError, match=r"data\.train=.*made with tokenizer .* but .*other\.model"
    ):
        _data(config, 1, 0)


def test_a_vocabulary_of_another_size_is_refused_with_the_right_one(corpus: Path) -> None:
    model = {**tiny_config(corpus, Path()).model.model_dump(), "vocab_size": 501}
    with pytest.raises(ConfigError, match=r"set model\.vocab_size=500"):
        _data(tiny_config(corpus, Path(), model=model), 1, 0)


def test_a_corpus_that_is_not_there_is_named(corpus: Path) -> None:
    config = tiny_config(corpus, Path("unused"), data={"train": "nowhere/at/all"})
    with pytest.raises(InputError, match="nowhere/at/all"):
        _data(config, 1, 0)
