"""Microbatches follow the config's treatment of documents, for one or several corpora."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bigtrain.config import RunConfig
from bigtrain.config.layout import Layout
from bigtrain.data.batches import TrainingData
from bigtrain.data.corpora import Source, open_source
from bigtrain.data.corpus_order import Indices
from bigtrain.data.microbatch import Microbatch
from bigtrain.data.sample_order import SampleLocations
from bigtrain.data.token_reader import TokenReader
from data_tools.samples.build_sample_table import build_sample_table
from tests.data_tools.sample_corpora import EOS, SPECIAL, random_documents, write_corpus
from tests.runs import tiny_config


def _places(sources: list[int], rows: list[int]) -> SampleLocations:
    numbers = np.arange(len(rows))
    return SampleLocations(numbers, np.array(sources), np.zeros_like(numbers), np.array(rows))


def _read(
    config: RunConfig, sources: list[Source], locations: SampleLocations, own: Indices
) -> list[Microbatch]:
    reader = TokenReader(config, special=SPECIAL)
    return reader.read(sources, locations, own=own).microbatches


def test_padding_without_a_pad_token_uses_the_end_of_document_token(
    corpus: Path, tmp_path: Path
) -> None:
    folder = write_corpus(tmp_path / "corpus", random_documents(4, most_words=3))
    build_sample_table(folder, mode="pad", sequence_length=32)
    config = tiny_config(corpus, tmp_path, data={"packing": "pad"})
    source = open_source(config.data, str(folder))
    reader = TokenReader(config, special=replace(SPECIAL, pad=-1))
    batch = reader.read([source], _places([0] * 4, [0, 1, 2, 3]), own=np.arange(4))
    padding = [token for m in batch.microbatches for token in m.tokens[m.weights == 0].tolist()]
    assert padding
    assert set(padding) == {EOS}
    source.close()


@pytest.mark.parametrize("is_apart", [False, True])
def test_a_batch_has_document_ids_if_attention_must_not_cross_documents(
    corpus: Path, is_apart: bool
) -> None:
    config = tiny_config(corpus, Path("unused"), data={"document_attention": is_apart})
    data = TrainingData(config, layout=Layout(), data_rank=0)
    microbatches = [m for first in range(0, 80, 8) for m in data.batch(first).microbatches]
    data.close()
    for m in microbatches:
        assert (m.documents is not None) == (m.positions is not None) == is_apart
    if is_apart:
        assert max(int(m.documents.max()) for m in microbatches) > 0


@pytest.mark.parametrize("section", [{"document_attention": True}, {"packing": "bestfit"}])
def test_rows_of_several_corpora_equal_those_of_each_corpus(
    corpus: Path, tmp_path: Path, section: dict[str, object]
) -> None:
    config = tiny_config(corpus, tmp_path, data=section)
    sources = []
    for seed in range(2):
        folder = write_corpus(tmp_path / str(seed), random_documents(30, seed=seed, most_words=5))
        build_sample_table(folder, mode="bestfit", sequence_length=32)
        sources.append(open_source(config.data, str(folder)))
    chosen, rows = [0, 1, 1, 0, 1, 0], [3, 3, 7, 9, 0, 4]
    mixed = _read(config, sources, _places(chosen, rows), np.arange(6))
    for number, (source, row) in enumerate(zip(chosen, rows, strict=True)):
        single = _read(config, sources, _places([source], [row]), np.zeros(1, np.int64))[0]
        for name in Microbatch.__dataclass_fields__:
            part = getattr(mixed[number // 2], name)[number % 2]
            assert part.equal(getattr(single, name)[0]), name
    assert any(m.positions.ne(torch.arange(32)).any() for m in mixed)
    for source in sources:
        source.close()
