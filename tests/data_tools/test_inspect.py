"""`data inspect` shows lengths of documents, samples from the whole corpus, and its origin."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from data_tools.cli import app
from data_tools.corpus import open_corpus
from data_tools.errors import InputError
from data_tools.inspect_corpus import count_lengths, inspect_corpus, render_inspection
from data_tools.manifest import load_manifest


@pytest.fixture(scope="module")
def documents(sharded):
    """All documents of the training corpus, in order."""
    with open_corpus(sharded / "train") as corpus:
        return list(corpus.documents())


def shown(inspection, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render_inspection(inspection))
    return console.export_text()


def test_lengths_are_counted_over_all_documents(sharded, documents):
    histogram = inspect_corpus(sharded / "train").histogram
    lengths = np.array([len(document) for document in documents])
    assert histogram.packs == histogram.all_packs == load_manifest(sharded / "train").totals.packs
    assert histogram.documents == len(documents)
    assert histogram.tokens == lengths.sum()
    for row in histogram.bins:
        assert row.first.bit_count() == 1
        assert row.last == 2 * row.first - 1
        inside = lengths[(lengths >= row.first) & (lengths <= row.last)]
        assert (row.documents, row.tokens) == (len(inside), inside.sum())
    assert histogram.bins[0].documents and histogram.bins[-1].documents


def test_a_corpus_of_many_packs_is_sampled_evenly_and_the_output_says_so(sharded, monkeypatch):
    monkeypatch.setattr("data_tools.inspect_corpus._SAMPLE_PACKS", 2)
    with open_corpus(sharded / "train") as corpus:
        first, again = (count_lengths(corpus, exact_packs=3) for _ in range(2))
    assert first == again
    assert first.packs == 2 * len(load_manifest(sharded / "train").shards) < first.all_packs
    inspection = replace(inspect_corpus(sharded / "train"), histogram=first)
    assert f"{first.packs} of {first.all_packs} packs" in shown(inspection)


def test_shown_documents_are_spread_over_the_corpus(sharded, documents, tokenizer):
    samples = inspect_corpus(sharded / "train", documents=6).documents
    step = len(documents) / 6
    assert [sample.number for sample in samples] == [int(step * place) for place in range(6)]
    assert len({sample.shard for sample in samples}) > 2
    for sample in samples:
        document = documents[sample.number]
        assert sample.num_tokens == len(document)
        assert tokenizer.decode(document).startswith(sample.text)
        assert sample.text


def test_a_document_is_truncated_to_the_requested_characters(sharded):
    [sample] = inspect_corpus(sharded / "train", documents=1, characters=7).documents
    assert len(sample.text) == 7


def test_if_more_documents_are_requested_than_exist_each_is_shown_once(sharded, documents):
    samples = inspect_corpus(sharded / "train", documents=10_000).documents
    assert [sample.number for sample in samples] == list(range(len(documents)))


def test_zero_documents_can_be_requested_but_not_a_negative_number(sharded):
    assert inspect_corpus(sharded / "train", documents=0).documents == ()
    with pytest.raises(InputError, match="--documents -1"):
        inspect_corpus(sharded / "train", documents=-1)


def test_the_output_fits_80_columns_and_shows_the_origin_of_the_corpus(sharded):
    manifest = load_manifest(sharded / "train")
    text = shown(inspect_corpus(sharded / "train"))
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    assert "…" not in text
    rows = [line for line in text.splitlines() if "tokens-00000" in line and "│" in line]
    assert len(rows) == len(manifest.shards)
    assert f"{manifest.inputs[0].documents} documents" in text
    assert f"bigtrain {manifest.tool_version}, seed {manifest.seed}" in text
    assert "% of tokens" in text
    assert "█" in text


def test_the_json_output_has_the_same_figures(sharded):
    result = CliRunner().invoke(app, ["inspect", str(sharded / "train"), "--json"])
    assert result.exit_code == 0
    values = json.loads(result.stdout)
    manifest = load_manifest(sharded / "train")
    assert values["fingerprint"] == manifest.fingerprint
    assert values["manifest"]["totals"]["tokens"] == manifest.num_tokens
    assert sum(row["documents"] for row in values["lengths"]["bins"]) == manifest.num_documents
    assert len(values["documents"]) == 3


def test_the_tokenizer_is_the_file_named_in_the_manifest(sharded, tmp_path):
    folder = shutil.copytree(sharded / "train", tmp_path / "train")
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    (folder / values["tokenizer"]["file"]).rename(folder / "mine.model")
    values["tokenizer"]["file"] = "mine.model"
    path.write_text(json.dumps(values))
    assert inspect_corpus(folder).documents[0].text.startswith("Story")


def test_for_a_missing_tokenizer_the_remedy_is_named(sharded, tmp_path):
    folder = shutil.copytree(sharded / "train", tmp_path / "train")
    (folder / "tokenizer.model").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.model is missing or not .*: restore it"):
        inspect_corpus(folder)
