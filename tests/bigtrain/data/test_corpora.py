"""Corpora are opened as configured, checked before a rank starts, and closed with the data."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.data import DataConfig
from bigtrain.config.layout import Layout
from bigtrain.data.batches import TrainingData
from bigtrain.data.corpora import Source, count_windows, open_source, source_order
from bigtrain.data.corpus_checks import check_data
from bigtrain.data.corpus_order import Indices
from data_tools import remote_files as remote
from data_tools.errors import InputError
from data_tools.samples.build_sample_table import build_sample_table
from data_tools.tar_index import scan_tar
from tests.data_tools.sample_corpora import FIRST_WORD, LENGTH, write_corpus, write_mixed_corpus
from tests.runs import tiny_config


def _data(**values: object) -> DataConfig:
    return DataConfig.model_validate({"sequence_length": 32, **values})


def _open_files(folder: Path) -> set[str]:
    """The files under a folder that this process holds open."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(descriptor.readlink()))
        except FileNotFoundError:  # The descriptor of the listing itself.
            continue
    return {link for link in links if link.startswith(f"{folder}{os.sep}")}


def _order(source: Source, config: RunConfig) -> Indices:
    """The rows of a source's first 24 units."""
    units = np.arange(24)
    return source_order(config, source).rows(units, np.zeros_like(units))[1]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with a table of packed rows and a table of pairs."""
    folder = write_mixed_corpus(tmp_path_factory.mktemp("tables") / "corpus")
    for mode in ("pad", "pairs"):
        build_sample_table(folder, mode=mode, sequence_length=LENGTH)
    return folder


def _table_config(corpus: Path, packing: str, **sections: object) -> RunConfig:
    config = tiny_config(corpus, Path("unused"), **sections)
    # The config is a GPT's, which cannot have pairs, so they are set without validation.
    data = config.data.model_copy(update={"packing": packing, "sequence_length": LENGTH})
    return config.model_copy(update={"data": data})


@pytest.mark.parametrize("shuffle", ["blocks", "windows"])
def test_rows_of_a_table_are_fully_shuffled_for_any_shuffle_of_windows(
    corpus: Path, tables: Path, shuffle: str
) -> None:
    config = _table_config(corpus, "pad", data={"shuffle": shuffle})
    source = open_source(config.data, str(tables))
    plain = config.model_copy(
        update={"data": config.data.model_copy(update={"shuffle": "windows"})}
    )
    assert _order(source, config).tolist() == _order(source, plain).tolist()
    windows = replace(source, table=None)
    differs = _order(windows, config).tolist() != _order(windows, plain).tolist()
    assert differs == (shuffle == "blocks")
    source.close()


def test_another_seed_draws_other_batches_of_pairs(corpus: Path, tables: Path) -> None:
    configs = [_table_config(corpus, "pairs", seed=seed) for seed in (1, 1, 2)]
    source = open_source(configs[0].data, str(tables))
    one, again, other = (_order(source, config).tolist() for config in configs)
    assert one == again
    assert one != other
    source.close()


def test_the_last_window_needs_the_token_after_it(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", [[[FIRST_WORD] * 31]] * 4)
    source = open_source(_data(train=str(folder)), str(folder))
    assert (source.corpus.num_tokens, source.num_samples) == (128, 3)
    [(start, stop)] = source.token_ranges(np.array([source.num_samples - 1]))
    assert len(source.corpus.read(start, stop)) == 33
    source.close()


@pytest.mark.parametrize(("tokens", "windows"), [(33, 1), (64, 1), (65, 2), (96, 2), (97, 3)])
def test_the_number_of_windows_includes_the_last_target(tokens: int, windows: int) -> None:
    assert count_windows(tokens, 32, name="x") == windows


@pytest.mark.parametrize("validation", [False, True])
def test_closing_the_data_closes_every_tar_and_table(
    corpus: Path, tmp_path: Path, validation: bool
) -> None:
    for split in ("train", "validation"):
        copy = shutil.copytree(corpus / split, tmp_path / split)
        build_sample_table(copy, mode="pad", sequence_length=32)
    section = {"packing": "pad", "workers": 1}
    if not validation:
        section["validation"] = None
    config = tiny_config(tmp_path, Path("unused"), data=section)
    data = TrainingData(config, layout=Layout(), data_rank=0)
    data.batch(0)
    if validation:
        next(data.validation_batches(data.validation_sources[0]))
    opened = {Path(name).parts[len(tmp_path.parts)] for name in _open_files(tmp_path)}
    assert opened == ({"train", "validation"} if validation else {"train"})
    assert {Path(name).suffix for name in _open_files(tmp_path)} == {".npy", ".tar"}
    data.close()
    assert not _open_files(tmp_path)


def test_checking_leaves_no_file_open(tables: Path, corpus: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(corpus / "train", tmp_path / "train")
    build_sample_table(copy, mode="pad", sequence_length=32)
    section = {"packing": "pad", "validation": None}
    config = tiny_config(tmp_path, Path("unused"), data=section)
    assert check_data(config).phase_records
    assert not _open_files(tmp_path)


def test_chunks_of_a_remote_corpus_are_cached_in_the_configured_folder(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "CHUNK_BYTES", 512)
    url = f"file://{corpus / 'train'}"
    source = open_source(_data(train=url, cache_dir=str(tmp_path)), url)
    source.corpus.read(0, 3000)
    assert len(list(tmp_path.rglob("*.chunk"))) >= 3000 * 2 // 512
    assert source.corpus.folder.is_relative_to(tmp_path)
    source.close()


def test_the_cache_stays_within_the_configured_size(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "CHUNK_BYTES", 512)
    url = f"file://{corpus / 'train'}"
    source = open_source(_data(train=url, cache_dir=str(tmp_path), cache_gb=3e-6), url)
    for start in range(0, 3000, 100):
        source.corpus.read(start, start + 100)
    sizes = [chunk.stat().st_size for chunk in tmp_path.rglob("*.chunk")]
    assert sizes
    assert sum(sizes) <= 3000
    source.close()


def test_a_flipped_bit_is_reported_unless_checksums_are_off(corpus: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(corpus / "train", tmp_path / "train")
    tar = next(copy.glob("*.tar"))
    content = bytearray(tar.read_bytes())
    content[scan_tar(tar)[0].tokens_offset + 100] ^= 1
    tar.write_bytes(content)
    careful = open_source(_data(train=str(copy)), str(copy))
    with pytest.raises(InputError, match="crc32"):
        careful.corpus.read(0, 100)
    careful.close()
    quick = open_source(_data(train=str(copy), verify="off"), str(copy))
    assert len(quick.corpus.read(0, 100)) == 100
    quick.close()


def test_a_mixture_of_a_corpus_and_its_copy_is_refused(corpus: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(corpus / "train", tmp_path / "copy")
    sources = [{"corpus": str(corpus / "train")}, {"corpus": str(copy)}]
    data = {"train": None, "stages": [{"sources": sources}]}
    config = tiny_config(corpus, Path("unused"), data=data)
    with pytest.raises(ConfigError, match=rf"{copy} and .* are the same corpus; name it once"):
        check_data(config)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_truncated_tar_is_reported_before_any_rank_starts(
    corpus: Path, tmp_path: Path, split: str
) -> None:
    copy = shutil.copytree(corpus, tmp_path / "corpus")
    tar = next((copy / split).glob("*.tar"))
    os.truncate(tar, tar.stat().st_size - 512)
    with pytest.raises(InputError, match=rf"{tar} has \d+ bytes, not the manifest's"):
        check_data(tiny_config(copy, Path("unused")))
