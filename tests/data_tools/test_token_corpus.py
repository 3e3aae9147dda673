"""Reading a corpus: windows equal ranges of the token stream, and damage is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.corpus import open_corpus
from data_tools.errors import InputError
from data_tools.manifest import load_manifest
from data_tools.tar_index import index_path, load_index, render_index, scan_tar
from data_tools.tar_writer import ShardWriter


@pytest.fixture
def damaged(tmp_path, sharded):
    """A copy of the training corpus, which tests may damage."""
    return shutil.copytree(sharded / "train", tmp_path / "train")


def plain_samples(folder):
    for shard in load_manifest(folder).shards:
        dataset = webdataset.WebDataset(str(folder / shard.file), shardshuffle=False)
        yield from dataset.decode()


@pytest.fixture(scope="session")
def stream(sharded):
    """All tokens, read with webdataset only."""
    return np.concatenate([sample["tokens.npy"] for sample in plain_samples(sharded / "train")])


def test_the_corpus_has_several_packs_in_several_shards(sharded):
    manifest = load_manifest(sharded / "train")
    assert len(manifest.shards) > 2
    assert manifest.totals.packs > 2 * len(manifest.shards)


@settings(deadline=None)
@given(data=st.data())
def test_any_window_equals_the_concatenated_stream(sharded, stream, data):
    start = data.draw(st.integers(0, len(stream)))
    stop = data.draw(st.integers(start, len(stream)))
    with open_corpus(sharded / "train", max_open_files=1) as corpus:
        window = corpus.read(start, stop)
    assert window.dtype == np.uint16
    assert np.array_equal(window, stream[start:stop])


def test_plain_webdataset_reads_complete_documents(sharded, tokenizer):
    samples = list(plain_samples(sharded / "train"))
    assert len({sample["__key__"] for sample in samples}) == len(samples)
    for sample in samples:
        tokens, starts = sample["tokens.npy"], sample["docs.npy"]
        assert sample["json"]["tokens"] == len(tokens)
        assert sample["json"]["docs"] == len(starts)
        assert starts.dtype == np.int64
        assert starts[0] == 0
        assert all(tokens[starts[1:] - 1] == tokenizer.special.eos)
        assert tokens[-1] == tokenizer.special.eos


def test_documents_decode_to_the_files_they_came_from(sharded, texts, tokenizer):
    found = []
    for split in ("train", "validation"):
        with open_corpus(sharded / split) as corpus:
            found += [tokenizer.decode(ids) for ids in corpus.documents()]
    assert sorted(found) == sorted(path.read_text(encoding="utf-8") for path in texts.iterdir())


def test_iteration_over_documents_stops_at_the_limit(sharded):
    with open_corpus(sharded / "train") as corpus:
        assert len(list(corpus.documents(2))) == 2


def test_token_payloads_are_aligned(sharded):
    shard = load_manifest(sharded / "train").shards[0]
    assert all(pack.tokens_offset % 64 == 0 for pack in scan_tar(sharded / "train" / shard.file))


def test_a_missing_index_is_rebuilt_in_memory(damaged, stream):
    for path in damaged.glob("*.index.json"):
        path.unlink()
    with open_corpus(damaged) as corpus:
        assert np.array_equal(corpus.read(0, corpus.num_tokens), stream)


def test_the_index_on_disk_equals_a_scan_of_the_tar(sharded):
    shard = load_manifest(sharded / "train").shards[0]
    tar = sharded / "train" / shard.file
    packs = load_index(tar, shard)
    assert packs == scan_tar(tar)
    assert index_path(tar).read_bytes() == render_index(packs, sha256=shard.sha256)


def test_an_index_of_another_tar_is_refused(damaged):
    first, second = (damaged / shard.file for shard in load_manifest(damaged).shards[:2])
    shutil.copy(index_path(second), index_path(first))
    with pytest.raises(InputError, match=r"tokens-000000\.index\.json does not belong"):
        open_corpus(damaged).read(0, 1)


def test_an_index_of_other_types_is_refused(damaged):
    path = index_path(damaged / load_manifest(damaged).shards[0].file)
    path.write_text(path.read_text().replace('"num_tokens": ', '"num_tokens": 0.5'))
    with pytest.raises(InputError, match="make it again with `bigtrain data index"):
        open_corpus(damaged).read(0, 1)


@pytest.mark.parametrize("what", ["tokens", "docs"])
def test_a_flipped_bit_is_found_on_first_access(damaged, what):
    shard = load_manifest(damaged).shards[1]
    pack = scan_tar(damaged / shard.file)[1]
    offset = pack.tokens_offset if what == "tokens" else pack.docs_offset
    with (damaged / shard.file).open("r+b") as file:
        file.seek(offset + 3)
        byte = file.read(1)[0]
        file.seek(offset + 3)
        file.write(bytes([byte ^ 16]))
    expected = rf"{shard.file}: pack {pack.key}, {what} at byte {offset}: crc32"
    with open_corpus(damaged) as corpus, pytest.raises(InputError, match=expected):
        list(corpus.documents())
    with open_corpus(damaged, verify="off") as corpus:
        assert len(corpus.read(0, corpus.num_tokens)) == corpus.num_tokens


def test_a_truncated_tar_is_named_with_both_sizes(damaged):
    shard = load_manifest(damaged).shards[1]
    with (damaged / shard.file).open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match=rf"{shard.file} has 1000 bytes, not .*{shard.bytes}"):
        open_corpus(damaged).check_files()


def test_a_tar_truncated_while_open_gives_a_one_line_error(damaged):
    shard = load_manifest(damaged).shards[0]
    with open_corpus(damaged, verify="off") as corpus:
        corpus.read(0, 1)
        with (damaged / shard.file).open("r+b") as file:
            file.truncate(1000)
        with pytest.raises(InputError, match=rf"{shard.file}: only \d+ of 100 bytes"):
            corpus.read(0, 50)


def test_a_missing_shard_is_named(damaged):
    shard = load_manifest(damaged).shards[2]
    (damaged / shard.file).unlink()
    with pytest.raises(InputError, match=f"{shard.file} is missing"):
        open_corpus(damaged).check_files()


def test_a_range_outside_the_corpus_is_refused(sharded):
    with open_corpus(sharded / "train") as corpus:
        for start, stop in [(-1, 5), (5, 4), (0, corpus.num_tokens + 1)]:
            with pytest.raises(InputError, match="lie outside"):
                corpus.read(start, stop)


def test_a_future_schema_is_refused(damaged):
    path = damaged / "manifest.json"
    path.write_text(path.read_text().replace("bigtrain-tokens/1", "bigtrain-tokens/2"))
    with pytest.raises(InputError, match="schema 'bigtrain-tokens/2'"):
        load_manifest(damaged)


def test_an_unknown_key_in_the_manifest_is_allowed_and_changes_the_fingerprint(damaged):
    before = load_manifest(damaged).fingerprint
    path = damaged / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "green"}))
    assert load_manifest(damaged).fingerprint != before


def test_for_folders_that_are_not_a_corpus_the_reason_is_named(tmp_path, sharded, damaged):
    with pytest.raises(InputError, match="no corpus folder at"):
        load_manifest(tmp_path / "absent")
    with pytest.raises(InputError, match="give train or validation inside it"):
        load_manifest(sharded)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no manifest\.json"):
        load_manifest(tmp_path / "empty")
    (damaged / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        load_manifest(damaged)


def test_large_ids_are_kept_in_four_bytes(tmp_path):
    path = tmp_path / "wide-000000.tar"
    dtype = np.dtype("<u4")
    writer = ShardWriter(path, task=0, dtype=dtype, pack_tokens=10, source="test")
    writer.add(np.array([70_000, 2], dtype=np.int32))
    assert writer.finish().tokens == 2
    sample = next(iter(webdataset.WebDataset(str(path), shardshuffle=False).decode()))
    assert sample["tokens.npy"].tolist() == [70_000, 2]
    assert sample["tokens.npy"].dtype == np.uint32


def test_a_shard_without_documents_leaves_no_file(tmp_path):
    path = tmp_path / "none-000000.tar"
    dtype = np.dtype("<u2")
    writer = ShardWriter(path, task=0, dtype=dtype, pack_tokens=10, source="test")
    assert writer.finish() is None
    assert list(tmp_path.iterdir()) == []


def test_a_url_is_distinguished_from_a_missing_folder():
    with pytest.raises(InputError, match="is a URL, which only training can read"):
        load_manifest(Path("s3://bucket/corpus"))
