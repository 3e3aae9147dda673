"""A corpus behind a URL gives the same tokens as on disk, through a bounded, shared cache."""

import multiprocessing
import os
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest

from data_tools import remote_files as remote
from data_tools.corpus import open_corpus
from data_tools.errors import InputError
from data_tools.remote_files import Cache, RemoteFolder
from data_tools.samples.build_sample_table import build_sample_table
from data_tools.samples.sample_table import load_sample_table
from data_tools.tar_index import scan_tar


@pytest.fixture
def store(sharded, tmp_path, monkeypatch):
    """The folder of a corpus for file:// URLs, with small chunks."""
    monkeypatch.setattr(remote, "CHUNK_BYTES", 512)
    return shutil.copytree(sharded / "train", tmp_path / "bucket" / "train")


def url_of(store: Path) -> str:
    return f"file://{store}"


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path / "cache", limit_bytes=10**9)


@pytest.fixture
def fetched(monkeypatch) -> list[str]:
    """The names of the requested files, one per request to the store."""
    names: list[str] = []
    fetch = RemoteFolder.fetch

    def counted(self, name, start, stop):
        names.append(name)
        return fetch(self, name, start, stop)

    monkeypatch.setattr(RemoteFolder, "fetch", counted)
    return names


def read_all(url: str, cache: Cache) -> list[int]:
    with open_corpus(url, cache=cache) as corpus:
        return corpus.read(0, corpus.num_tokens).tolist()


def tars(fetched: list[str]) -> list[str]:
    return [name for name in fetched if name.endswith(".tar")]


def test_a_remote_corpus_gives_the_tokens_of_the_local_one(store, cache):
    with open_corpus(store) as local, open_corpus(url_of(store), cache=cache) as far:
        assert np.array_equal(local.read(0, local.num_tokens), far.read(0, far.num_tokens))
        assert far.manifest.fingerprint == local.manifest.fingerprint
        assert far.find_documents(0, 50) == local.find_documents(0, 50)


def test_a_corpus_in_another_fsspec_store_is_read(store, cache):
    memory = fsspec.filesystem("memory")
    memory.put(str(store), "/corpus", recursive=True)
    try:
        assert read_all("memory://corpus", cache) == read_all(url_of(store), cache)
    finally:
        memory.rm("/corpus", recursive=True)


def test_cached_chunks_are_not_fetched_again(store, cache, fetched):
    first = read_all(url_of(store), cache)
    assert tars(fetched)
    fetched.clear()
    assert read_all(url_of(store), cache) == first
    assert not tars(fetched)


def test_announced_ranges_are_fetched_ahead(store, cache, fetched):
    with open_corpus(url_of(store), cache=cache) as corpus:
        corpus.will_need(0, corpus.num_tokens)
        corpus.close()  # Waits for fetches in progress.
    begun = len(tars(fetched))
    assert begun
    with open_corpus(url_of(store), cache=cache) as corpus:
        corpus.will_need(0, corpus.num_tokens)
    assert len(tars(fetched)) - begun < begun  # Chunks of the first fetch are cached.


def test_the_cache_stays_under_its_limit_and_the_tokens_right(store, tmp_path, fetched):
    small = Cache(tmp_path / "small", limit_bytes=4 * 512)
    with open_corpus(store) as local:
        expected = local.read(0, local.num_tokens).tolist()
    for _ in range(2):
        assert read_all(url_of(store), small) == expected
        held = sum(path.stat().st_size for path in small.folder.glob("*/*.chunk"))
        assert held <= 4 * 512
    assert (
        len(tars(fetched)) > len(set(tars(fetched))) + 10
    )  # The small cache fetched chunks again.


def read_in_a_process(url: str, cache: Cache, log: Path) -> None:
    remote.CHUNK_BYTES = 512
    fetch = RemoteFolder.fetch

    def noted(self, name, start, stop):
        with log.open("a") as file:
            file.write(f"{name} {start}\n")
        return fetch(self, name, start, stop)

    RemoteFolder.fetch = noted
    read_all(url, cache)


def test_processes_of_a_node_fetch_each_chunk_once(store, cache, tmp_path):
    log = tmp_path / "log"
    fork = multiprocessing.get_context("fork")
    arguments = (url_of(store), cache, log)
    processes = [fork.Process(target=read_in_a_process, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    chunks = [line for line in log.read_text().splitlines() if ".tar " in line]
    assert len(chunks) == len(set(chunks)) > 10


def test_a_corpus_replaced_behind_its_url_is_fetched_again(store, cache, sharded):
    read_all(url_of(store), cache)
    shutil.rmtree(store)
    shutil.copytree(sharded / "validation", store)
    with open_corpus(sharded / "validation") as local:
        assert read_all(url_of(store), cache) == local.read(0, local.num_tokens).tolist()


def test_an_index_repaired_in_the_store_is_fetched_again(store, cache):
    index = next(store.glob("*.index.json"))
    whole = index.read_bytes()
    index.write_bytes(whole.replace(b"bigtrain-index", b"other-index"))
    with pytest.raises(InputError, match="does not belong to its tar"):
        read_all(url_of(store), cache)
    index.write_bytes(whole)
    assert read_all(url_of(store), cache)


def test_a_sample_table_rebuilt_in_the_store_is_fetched_again(store, cache):
    def first_starts() -> list[int]:
        with open_corpus(url_of(store), cache=cache) as corpus:
            folder = corpus.local_folder("samples/pad-16").parents[1]
            table = load_sample_table(
                folder,
                mode="pad",
                sequence_length=16,
                corpus_fingerprint=corpus.manifest.fingerprint,
            )
            with table:
                return table.read(np.arange(3)).starts.tolist()

    build_sample_table(store, mode="pad", sequence_length=16)
    before = first_starts()
    folder = store / "samples" / "pad-16"
    starts = np.load(folder / "starts.npy")
    np.save(folder / "starts.npy", starts + 1)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    assert first_starts() == [start + 1 for start in before]


def test_old_temporary_files_of_killed_processes_are_removed_from_the_cache(store, tmp_path):
    small = Cache(tmp_path / "small", limit_bytes=8 * 512)
    read_all(url_of(store), small)
    mirror = next(small.folder.glob("*/manifest.json")).parent
    old, new = (mirror / f".x.{n}.part" for n in (1, 2))
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    read_all(url_of(store), small)
    assert not old.exists()
    assert new.exists()  # Another process may be writing it.


def test_a_removed_cache_folder_is_made_again(store, cache):
    with open_corpus(url_of(store), cache=cache, verify="off") as corpus:
        expected = corpus.read(0, corpus.num_tokens).tolist()
        shutil.rmtree(cache.folder)
        assert corpus.read(0, corpus.num_tokens).tolist() == expected


def test_a_truncated_chunk_in_the_cache_is_fetched_again(store, cache):
    expected = read_all(url_of(store), cache)
    for chunk in cache.folder.glob("*/*.chunk"):
        chunk.write_bytes(chunk.read_bytes()[:100])
    assert read_all(url_of(store), cache) == expected


def test_a_chunk_with_a_flipped_bit_in_the_cache_is_fetched_again(store, cache):
    expected = read_all(url_of(store), cache)
    for tar in store.glob("*.tar"):
        for pack in scan_tar(tar):
            number, within = divmod(pack.tokens_offset, 512)
            (chunk,) = cache.folder.glob(f"*/{tar.name}.{number:06d}.512.chunk")
            content = bytearray(chunk.read_bytes())
            content[within] ^= 1
            chunk.write_bytes(content)
    assert read_all(url_of(store), cache) == expected


def test_a_flipped_bit_in_the_store_is_found(store, cache):
    tar = next(store.glob("*.tar"))
    content = bytearray(tar.read_bytes())
    content[scan_tar(tar)[0].tokens_offset + 9] ^= 1
    tar.write_bytes(content)
    with pytest.raises(InputError, match=r"pack 00000\d-00000, tokens at byte \d+: crc32"):
        read_all(url_of(store), cache)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("manifest.json", r"has no manifest\.json: check the URL"),
        ("tokens-000000.index.json", r"needs its indexes; make them with `bigtrain data index`"),
        ("tokens-000000.tar", r"tokens-000000\.tar is missing, and the manifest lists it"),
    ],
)
def test_missing_files_are_named(store, cache, remove, message):
    (store / remove).unlink()
    with pytest.raises(InputError, match=message):
        read_all(url_of(store), cache)


def test_a_tar_shorter_than_in_the_manifest_is_reported(store, cache):
    tar = next(store.glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:1000])
    with pytest.raises(InputError, match=rf"{tar.name}: only \d+ of 512 bytes at byte"):
        read_all(url_of(store), cache)


def test_failed_requests_are_repeated_and_then_reported(store, cache, monkeypatch):
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    system = type(RemoteFolder(url_of(store), cache)._system)
    real, failures = system.cat_file, []

    def flaky(self, path, start=None, end=None, **options):
        if path.endswith(".tar") and len(failures) < broken:
            failures.append(path)
            raise TimeoutError("no answer")
        return real(self, path, start, end, **options)

    monkeypatch.setattr(system, "cat_file", flaky)
    broken = 3
    with open_corpus(store) as local:
        assert read_all(url_of(store), cache) == local.read(0, local.num_tokens).tolist()
    shutil.rmtree(cache.folder)
    broken = 10**6
    with pytest.raises(InputError, match="TimeoutError: no answer; tried 4 times"):
        read_all(url_of(store), cache)


def test_an_unknown_protocol_gives_a_one_line_error(cache):
    with pytest.raises(InputError, match="nothing://x"):
        open_corpus("nothing://x", cache=cache)
