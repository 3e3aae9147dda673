"""The samples of a step do not depend on the number of ranks."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.layout import Layout
from bigtrain.data.batches import TrainingData
from bigtrain.data.microbatch import Microbatch
from data_tools.corpus import open_corpus
from data_tools.errors import InputError
from data_tools.tar_index import scan_tar
from data_tools.tokenizer import train_tokenizer
from tests.runs import tiny_config


def _data(config: RunConfig, copies: int, rank: int) -> TrainingData:
    return TrainingData(config, layout=Layout(data=copies), data_rank=rank)


def _rows_of_batch(config: RunConfig, copies: int, consumed: int) -> list[list[int]]:
    """The samples of a batch in order of their numbers."""
    shares = [_data(config, copies, rank).batch(consumed).microbatches for rank in range(copies)]
    return [
        row for passes in zip(*shares, strict=True) for m in passes for row in m.tokens.tolist()
    ]


def _wide(corpus: Path, **data: object) -> RunConfig:
    """A config with a batch size that is divisible by 1, 2, 3, 4, 6 and 8 ranks."""
    train = {"global_batch_size": 24, "micro_batch_size": 1}
    return tiny_config(corpus, Path("unused"), train=train, data=data)


@pytest.fixture(scope="module")
def rows_of_steps(corpus: Path) -> list[list[list[int]]]:
    """The rows of the first 20 steps, read by one rank without threads."""
    data = _data(_wide(corpus, workers=0), 1, 0)
    return [_rows(data.batch(24 * step).microbatches) for step in range(20)]


def _rows(microbatches: list[Microbatch]) -> list[list[int]]:
    return [row for microbatch in microbatches for row in microbatch.tokens.tolist()]


@settings(deadline=None, max_examples=25)
@given(
    copies=st.sampled_from([1, 2, 3, 4, 6, 8]),
    workers=st.sampled_from([0, 1, 3]),
    first=st.integers(0, 15),
)
def test_a_step_reads_the_same_samples_for_any_ranks_threads_and_resume(
    corpus: Path, rows_of_steps: list[list[list[int]]], copies: int, workers: int, first: int
) -> None:
    ranks = [_data(_wide(corpus, workers=workers), copies, rank) for rank in range(copies)]
    for step in range(first, first + 4):
        shares = [_rows(rank.batch(24 * step).microbatches) for rank in ranks]
        together = [row for passes in zip(*shares, strict=True) for row in passes]
        assert together == rows_of_steps[step]
    for rank in ranks:
        rank.close()


def test_reading_can_jump_to_any_position(
    corpus: Path, rows_of_steps: list[list[list[int]]]
) -> None:
    data = _data(_wide(corpus, workers=2), 1, 0)
    for step in (3, 4, 11, 0, 1):
        assert _rows(data.batch(24 * step).microbatches) == rows_of_steps[step]
    data.close()


def test_a_damaged_corpus_stops_the_step_that_needs_it(corpus: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    tar = next((copy / "train").glob("*.tar"))
    content = bytearray(tar.read_bytes())
    content[scan_tar(tar)[0].tokens_offset + 100] ^= 1
    tar.write_bytes(content)
    data = _data(tiny_config(copy, Path("unused")), 1, 0)
    with pytest.raises(InputError, match=r"pack 000000-00000, tokens at byte \d+: crc32"):
        data.batch(0)
    data.close()


def _renamed(corpus: Path, copy: Path) -> Path:
    """A copy under another name, which gives it another fingerprint."""
    shutil.copytree(corpus, copy)
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"name": "tokens"', '"name": "other"'))
    return copy


@pytest.mark.parametrize("copies", [1, 2])
def test_a_phase_reads_its_corpora_from_where_the_previous_phase_stopped(
    corpus: Path, tmp_path: Path, copies: int
) -> None:
    other = _renamed(corpus / "train", tmp_path / "other")
    first = {"corpus": str(corpus / "train")}
    stages = [
        {"sources": [first]},
        {"start_sample": 40, "sources": [first, {"corpus": str(other), "weight": 3.0}]},
    ]
    config = tiny_config(corpus, Path("unused"), data={"train": None, "stages": stages})
    locations = _data(config, 1, 0).order.locate(np.arange(120))
    of_first = locations.rows[locations.sources == 0]
    assert len(set(of_first.tolist())) == len(of_first)
    assert (locations.sources[:40] == 0).all()
    assert 50 <= (locations.sources[40:] == 1).sum() <= 70
    rows = _rows_of_batch(config, copies, 104)
    with open_corpus(corpus / "train") as stream:
        for row, window in zip(rows, locations.rows[104:112].tolist(), strict=True):
            assert row == stream.read(window * 32, window * 32 + 32).tolist()


def test_each_rank_gets_the_number_of_targets_of_the_full_batch(corpus: Path) -> None:
    batches = [_data(_wide(corpus), 4, rank).batch(0) for rank in range(4)]
    own = sum(int(m.weights.sum()) for batch in batches for m in batch.microbatches)
    assert {batch.num_targets for batch in batches} == {own}


def test_a_validation_split_of_another_seed_is_refused(corpus: Path, tmp_path: Path) -> None:
    for change, message in [
        (('"seed": 0', '"seed": 5'), "--seed 0 and 5, which select different"),
        (
            ('"validation_percent": 20.0', '"validation_percent": 30.0'),
            "20, and data.validation was made with 30",
        ),
    ]:
        other = Path(shutil.copytree(corpus / "validation", tmp_path / change[1].split()[-1]))
        manifest = other / "manifest.json"
        text = manifest.read_text()
        assert change[0] in text
        manifest.write_text(text.replace(*change))
        config = tiny_config(corpus, Path("unused"), data={"validation": str(other)})
        with pytest.raises(ConfigError, match=rf"may hold text of .*{message}"):
            _data(config, 1, 0)


def test_a_training_split_is_refused_as_validation(corpus: Path, tmp_path: Path) -> None:
    other = _renamed(corpus / "train", tmp_path / "other")
    config = tiny_config(corpus, Path("unused"), data={"validation": str(other)})
    with pytest.raises(ConfigError, match="the training split that remains when 20 % are taken"):
        _data(config, 1, 0)


def test_training_on_a_validation_split_with_another_validation_is_refused(
    corpus: Path, tmp_path: Path
) -> None:
    other = _renamed(corpus / "validation", tmp_path / "other")
    config = tiny_config(corpus, Path("unused"), data={"train": str(other)})
    with pytest.raises(ConfigError, match="that is the validation split made with"):
        _data(config, 1, 0)


def test_the_training_corpus_is_refused_as_validation(corpus: Path) -> None:
    config = tiny_config(corpus, Path("unused"), data={"validation": str(corpus / "train")})
    with pytest.raises(ConfigError, match="they are the same corpus; give the validation split"):
        _data(config, 1, 0)


def test_the_targets_are_the_next_tokens_of_the_stream(corpus: Path) -> None:
    config = tiny_config(corpus, Path("unused"))
    data = _data(config, 1, 0)
    microbatch = data.batch(0).microbatches[0]
    window = int(data.order.locate(np.array([0])).rows[0])
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
        data = _data(config, copies, rank)
        for batch in data.validation_batches(data.validation_sources[0]):
            shapes.add(len(batch.microbatches))
            counted += sum(m.weights[:, 0].sum() for m in batch.microbatches)
    assert counted == 13
    assert shapes == {config.train.global_batch_size // (copies * config.train.micro_batch_size)}


def test_a_corpus_shorter_than_one_sample_is_refused(corpus: Path) -> None:
    long = {
        "model": {**tiny_config(corpus, Path()).model.model_dump(), "max_sequence_length": 10**6}
    }
    data = {"train": str(corpus / "train"), "sequence_length": 10**6}
    with pytest.raises(
        ConfigError, match=r"tokens, fewer than one sample of data\.sequence_length"
    ):
        _data(tiny_config(corpus, Path(), **long, data=data), 1, 0)


def test_another_tokenizer_than_that_of_the_corpus_is_refused(corpus: Path, tmp_path: Path) -> None:
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


def test_a_missing_corpus_is_named(corpus: Path) -> None:
    config = tiny_config(corpus, Path("unused"), data={"train": "nowhere/at/all"})
    with pytest.raises(InputError, match="nowhere/at/all"):
        _data(config, 1, 0)
