"""Batches of label tables: the same samples on any number of ranks, and exact rows."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.layout import Layout
from bigtrain.data.batches import TrainingData
from bigtrain.data.corpora import open_source
from bigtrain.data.label_source import LabelSource
from data_tools.errors import InputError
from data_tools.labels.build_label_table import build_label_table
from data_tools.labels.label_options import LabelOptions
from data_tools.labels.label_table import open_label_table
from data_tools.tokenizer import train_tokenizer
from tests.label_tables import make_answer_table, make_label_table
from tests.runs import merge, tiny_config

LENGTH = 64
SPECIAL = {"pad": 0, "eos": 2, "cls": 4, "sep": 5}


@pytest.fixture(scope="module")
def tables(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A table of each kind of row."""
    folder, tokenizer = tmp_path_factory.mktemp("tables"), corpus / "train" / "tokenizer.model"
    return {
        "pairs": make_label_table(folder / "pairs", tokenizer),
        "single": make_label_table(folder / "single", tokenizer, pair=False),
        "answers": make_answer_table(folder / "answers", tokenizer),
    }


_LONGER = {"model": {"max_sequence_length": LENGTH}, "data": {"sequence_length": LENGTH}}


def _config(table: Path, packing: str, kind: str = "gpt", **sections: Any) -> RunConfig:
    plain = tiny_config(table, Path("unused"), **merge(_LONGER, sections))
    # Without validation, because the rules ask for an objective that fits.
    return plain.model_copy(
        update={
            "data": plain.data.model_copy(update={"packing": packing}),
            "model": plain.model.model_copy(update={"kind": kind}),
        }
    )


def _batch(config: RunConfig, consumed: int, copies: int = 1) -> list[Any]:
    """The microbatches of a batch from all ranks, in order of their samples."""
    shares = []
    for rank in range(copies):
        data = TrainingData(config, layout=Layout(data=copies), data_rank=rank)
        shares.append(data.batch(consumed))
        data.close()
    assert len({share.num_targets for share in shares}) == 1
    return [m for passes in zip(*(s.microbatches for s in shares), strict=True) for m in passes]


def _expected_row(table: Any, row: int, kind: str) -> list[int]:
    read = table.read(np.array([row]))
    first, second = np.split(read.tokens, read.seconds)
    if kind == "gpt":
        return [*first.tolist(), *second.tolist()]
    end = [*second.tolist(), SPECIAL["sep"]] if table.manifest.has_pairs else []
    return [SPECIAL["cls"], *first.tolist(), SPECIAL["sep"], *end]


@pytest.mark.parametrize("kind", ["gpt", "bert"])
@pytest.mark.parametrize("name", ["pairs", "single"])
def test_labelled_rows_are_padded_with_their_types_and_classes(
    tables: dict[str, Path], name: str, kind: str
) -> None:
    config = _config(tables[name], "labels", kind)
    data = TrainingData(config, layout=Layout(), data_rank=0)
    rows = data.order.locate(np.arange(8)).rows.tolist()
    microbatches = data.batch(0).microbatches
    with open_label_table(tables[name] / "train") as table:
        labels = table.read(np.array(rows)).labels
        widths = set()
        for place, row in enumerate(rows):
            m, n = microbatches[place // 2], place % 2
            tokens = _expected_row(table, row, kind)
            width = m.tokens.shape[1]
            widths.add(width)
            assert m.tokens[n].tolist() == tokens + [SPECIAL["pad"]] * (width - len(tokens))
            assert m.padding_mask[n].tolist() == [p < len(tokens) for p in range(width)]
            assert m.ends[n] == len(tokens) - 1
            assert m.labels[n] == labels[place]
            seconds = int(table.read(np.array([row])).seconds[0]) + (2 if kind == "bert" else 0)
            is_second = [name == "pairs" and seconds <= p < len(tokens) for p in range(width)]
            assert m.token_types[n].tolist() == [int(it) for it in is_second]
    longest = max(int(m.ends.max()) for m in microbatches) + 1
    assert widths == {-(-longest // 8) * 8}


@pytest.mark.parametrize("packing", ["labels", "answers"])
@pytest.mark.parametrize("copies", [2, 4])
def test_a_batch_has_the_same_samples_on_any_number_of_ranks(
    tables: dict[str, Path], packing: str, copies: int
) -> None:
    config = _config(tables["pairs" if packing == "labels" else "answers"], packing)
    for consumed in (0, 24, 200):
        alone, shared = _batch(config, consumed), _batch(config, consumed, copies)
        for ours, theirs in zip(alone, shared, strict=True):
            assert torch.equal(ours.tokens, theirs.tokens)
            assert torch.equal(ours.weights, theirs.weights)


@pytest.mark.parametrize("packing", ["labels", "answers"])
def test_each_epoch_has_every_sample_once_in_an_order_of_its_own(
    tables: dict[str, Path], packing: str
) -> None:
    config = _config(tables["pairs" if packing == "labels" else "answers"], packing)
    data = TrainingData(config, layout=Layout(), data_rank=0)
    count = data.sources[0].num_samples
    locations = data.order.locate(np.arange(3 * count))
    epochs = [locations.rows[count * e : count * (e + 1)].tolist() for e in range(3)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_reading_continues_at_any_sample(tables: dict[str, Path]) -> None:
    config = _config(tables["answers"], "answers")
    data = TrainingData(config, layout=Layout(), data_rank=0)
    read = [data.batch(consumed) for consumed in range(0, 64, 8)]
    again = TrainingData(config, layout=Layout(), data_rank=0).batch(40)
    for ours, theirs in zip(read[5].microbatches, again.microbatches, strict=True):
        assert torch.equal(ours.tokens, theirs.tokens)


def test_an_epoch_of_packed_answers_has_each_row_once_as_a_document(
    tables: dict[str, Path],
) -> None:
    config = _config(tables["answers"], "answers")
    with open_source(config.data, str(tables["answers"] / "train")) as source:
        assert isinstance(source, LabelSource)
        rows = source.read_answers(np.arange(source.num_samples), pad=SPECIAL["pad"])
        found: Counter[tuple[Any, ...]] = Counter()
        for n in range(source.num_samples):
            for document in np.unique(rows.documents[n]):
                here = rows.documents[n] == document
                assert rows.positions[n][here].tolist() == list(range(here.sum()))
                if not rows.weights[n][here].any():
                    assert (rows.tokens[n][here] == SPECIAL["pad"]).all()
                    continue
                tokens = [*rows.tokens[n][here].tolist(), int(rows.targets[n][here][-1])]
                assert rows.targets[n][here].tolist() == tokens[1:]
                found[tuple(tokens), tuple(rows.weights[n][here].astype(bool).tolist())] += 1
        expected: Counter[tuple[Any, ...]] = Counter()
        for row in range(source.labels.num_rows):
            read = source.labels.read(np.array([row]))
            expected[tuple(read.tokens.tolist()), tuple(read.is_answer[1:].tolist())] += 1
        assert found == expected
        assert (rows.tokens != SPECIAL["pad"]).mean() > 0.9
        counts = [source.count_targets(np.array([n])) for n in range(source.num_samples)]
        assert counts == rows.weights.sum(axis=1).astype(int).tolist()


def test_the_number_of_targets_of_a_batch_is_known_on_every_rank(tables: dict[str, Path]) -> None:
    config = _config(tables["answers"], "answers")
    data = TrainingData(config, layout=Layout(), data_rank=0)
    batch = data.batch(8)
    assert batch.num_targets == sum(m.weights.sum() for m in batch.microbatches)
    labelled = TrainingData(
        _config(tables["pairs"], "labels"), layout=Layout(data=2), data_rank=1
    ).batch(8)
    assert labelled.num_targets == 8


def test_validation_reads_each_row_once_and_counts_no_padding(tables: dict[str, Path]) -> None:
    config = _config(tables["pairs"], "labels")
    config = config.model_copy(
        update={"validation": config.validation.model_copy(update={"samples": None})}
    )
    data = TrainingData(config, layout=Layout(), data_rank=0)
    (source,) = data.validation_sources
    batches = list(data.validation_batches(source))
    counted = sum(int(m.weights.sum()) for batch in batches for m in batch.microbatches)
    assert counted == source.num_samples == sum(batch.num_targets for batch in batches)


def test_mixtures_of_tables_are_read(tables: dict[str, Path]) -> None:
    mixture = [{"corpus": str(tables[name] / "train")} for name in ("pairs", "single")]
    sections = {"data": {"train": None, "validation": None, "stages": [{"sources": mixture}]}}
    config = _config(tables["pairs"], "labels", "bert", **sections)
    data = TrainingData(config, layout=Layout(), data_rank=0)
    locations = data.order.locate(np.arange(8))
    assert {*locations.sources.tolist()} == {0, 1}
    rows = [row for m in data.batch(0).microbatches for row in m.token_types]
    for source, types in zip(locations.sources.tolist(), rows, strict=True):
        assert bool(types.any()) == (source == 0)


def test_tables_that_do_not_fit_are_refused(tables: dict[str, Path], corpus: Path) -> None:
    def open_it(folder: Path, packing: str, **sections: Any) -> None:
        config = _config(folder, packing, **sections)
        TrainingData(config, layout=Layout(), data_rank=0).close()

    with pytest.raises(ConfigError, match=r"data\.packing=answers does not read .* a table of lab"):
        open_it(tables["pairs"], "answers")
    with pytest.raises(ConfigError, match=r"table of prompts and answers; set data\.packing=ans"):
        open_it(tables["answers"], "labels")
    with pytest.raises(ConfigError, match=r"data\.sequence_length=8: the longest row of .* needs"):
        open_it(tables["pairs"], "labels", data={"sequence_length": 8})
    with pytest.raises(InputError, match=r"has schema 'bigtrain-tokens/1', and a label table has"):
        open_it(corpus, "labels")
    with pytest.raises(InputError, match=r"is a label table, not a corpus: .*data\.packing=labels"):
        open_it(tables["pairs"], "concat")
    with pytest.raises(ConfigError, match=r"may hold text of .*they are the same corpus"):
        open_it(tables["pairs"], "labels", data={"validation": str(tables["pairs"] / "train")})
    with pytest.raises(ConfigError, match=r"label tables are read from a disk"):
        open_it(tables["pairs"], "labels", data={"train": "s3://bucket/table"})


def test_tables_with_other_classes_or_another_tokenizer_are_refused(
    tables: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    tokenizer = corpus / "train" / "tokenizer.model"
    (tmp_path / "rows.csv").write_text("one,label\nthe cat,yes\nthe dog,no\n")
    options = LabelOptions(columns={"text": "one", "label": "label"}, labels=("yes", "no"))
    path = [str(tmp_path / "rows.csv")]
    build_label_table(path, tokenizer=tokenizer, out=tmp_path / "turned", options=options)
    sections = {"data": {"validation": str(tmp_path / "turned" / "train")}}
    with pytest.raises(ConfigError, match=r"classes no, yes, but .*turned.*--labels no,yes"):
        TrainingData(_config(tables["pairs"], "labels", **sections), layout=Layout(), data_rank=0)
    other = tmp_path / "other.model"
    train_tokenizer(["the cat sat on the mat. " * 9] * 9, other, vocab_size=350)
    sections = {"data": {"tokenizer": str(other)}}
    with pytest.raises(ConfigError, match=r"table/train: made with tokenizer"):
        TrainingData(_config(tables["pairs"], "labels", **sections), layout=Layout(), data_rank=0)


def test_bert_and_the_padded_length_agree_with_the_limit_of_the_table(
    tables: dict[str, Path],
) -> None:
    with open_label_table(tables["pairs"] / "train") as table:
        longest = table.manifest.longest
    config = _config(tables["pairs"], "labels", "bert", data={"sequence_length": longest})
    data = TrainingData(config, layout=Layout(), data_rank=0)
    widths = {m.tokens.shape[1] for c in range(0, 48, 8) for m in data.batch(c).microbatches}
    assert max(widths) <= longest
