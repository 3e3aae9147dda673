"""Megatron reads exported tokens, and files from Megatron's builder become a corpus."""

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data_tools import convert_megatron as megatron_module
from data_tools.cli import app
from data_tools.convert_megatron import export_megatron, import_megatron
from data_tools.corpus import open_corpus
from data_tools.errors import InputError
from data_tools.inspect_corpus import inspect_corpus
from data_tools.jobs.output_folder import only_writer
from data_tools.manifest import Manifest, load_manifest, render_manifest, total_of
from data_tools.tar_index import scan_tar
from data_tools.tar_writer import ShardWriter
from data_tools.verify_corpus import verify_corpus
from tests.data_tools.small_texts import tree_bytes

TYPES = ("uint8", "int16", "int32", "int64", "uint16")
DOCUMENTS = [[[90, 91, 2]], [[100, 2]], [[101, 102], [103], [104, 2]]]
"""Each document is a list of sequences; 2 is eos."""

# One process, because importing megatron takes seconds: it reads exports and builds files.
MEGATRON = """
import json, sys
import numpy, torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

folder, types, documents = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
for name in ("documents", "sentences", "wide"):
    dataset = IndexedDataset(f"{folder}/{name}")
    sequences = [dataset[number] for number in range(len(dataset))]
    numpy.savez(
        f"{folder}/{name}.npz",
        tokens=numpy.concatenate(sequences),
        lengths=dataset.sequence_lengths,
        marks=dataset.document_indices,
    )
for name in types + ["modes"]:
    kind = getattr(numpy, "int32" if name == "modes" else name)
    builder = IndexedDatasetBuilder(f"{folder}/{name}.bin", kind, multimodal=name == "modes")
    for document in documents:
        for sequence in document:
            builder.add_item(torch.tensor(sequence))
        builder.end_document()
    builder.finalize(f"{folder}/{name}.idx")
"""


def write_files(prefix: Path, documents, *, code=4, dtype="<i4") -> Path:
    """Writes an indexed dataset, one sequence per document."""
    tokens = [np.array(document, dtype) for document in documents]
    lengths = np.array([len(ids) for ids in tokens], "<i4")
    pointers = np.cumsum([0, *(ids.nbytes for ids in tokens)])[:-1].astype("<i8")
    head = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, code, len(tokens), len(tokens) + 1)
    marks = np.arange(len(tokens) + 1, dtype="<i8")
    index = b"".join([head, lengths.tobytes(), pointers.tobytes(), marks.tobytes()])
    prefix.with_suffix(".idx").write_bytes(index)
    prefix.with_suffix(".bin").write_bytes(b"".join(ids.tobytes() for ids in tokens))
    return prefix


def documents_of(folder: Path) -> list[list[int]]:
    with open_corpus(folder) as corpus:
        return [document.tolist() for document in corpus.documents()]


@pytest.fixture(scope="module")
def with_sentences(tmp_path_factory, tokenizer):
    """A corpus of several packs and tars with sentences, of 300 documents."""
    rng = np.random.default_rng(0)
    sequences = [
        [rng.integers(80, 400, rng.integers(1, 9)).tolist() for _ in range(rng.integers(1, 5))]
        for _ in range(300)
    ]
    folder = tmp_path_factory.mktemp("sentences")
    flat = [ids for document in sequences for ids in [*document[:-1], [*document[-1], 2]]]
    prefix = write_files(folder / "made", flat)
    marks = np.cumsum([0, *map(len, sequences)]).astype("<i8")
    index = prefix.with_suffix(".idx")
    content = bytearray(index.read_bytes())[: 34 + 12 * len(flat)]
    content[26:34] = struct.pack("<Q", len(marks))
    index.write_bytes(bytes(content) + marks.tobytes())
    out = folder / "corpus"
    options = {"tokenizer": tokenizer.path, "pack_tokens": 200, "shard_tokens": 1000}
    import_megatron(prefix, out, sentences=True, **options)
    return out


@pytest.fixture(scope="module")
def wide(tmp_path_factory, with_sentences):
    """The same corpus with tokens of four bytes, as for a large vocabulary."""
    folder = shutil.copytree(with_sentences, tmp_path_factory.mktemp("wide") / "corpus")
    values = json.loads((folder / "manifest.json").read_text())
    for path in folder.glob("tokens-*"):
        path.unlink()
    tar = folder / "tokens-000000.tar"
    writer = ShardWriter(tar, task=0, dtype=np.dtype("<u4"), pack_tokens=500, source="test")
    for document in documents_of(with_sentences):
        writer.add(np.array(document))
    shards = (writer.finish(),)
    values.pop("schema")
    values |= {"dtype": "uint32", "shards": shards, "totals": total_of(shards)}
    (folder / "manifest.json").write_bytes(render_manifest(Manifest(**values)))
    return folder


@pytest.fixture(scope="module")
def megatron(tmp_path_factory, sharded, with_sentences, wide):
    """A folder in which Megatron has read exports and written its own files."""
    folder = tmp_path_factory.mktemp("megatron")
    export_megatron(sharded / "train", folder / "documents")
    export_megatron(with_sentences, folder / "sentences", sentences=True)
    export_megatron(wide, folder / "wide")
    arguments = [str(folder), json.dumps(TYPES), json.dumps(DOCUMENTS)]
    subprocess.run([sys.executable, "-c", MEGATRON, *arguments], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("name", ["documents", "wide"])
def test_megatron_reads_the_exported_documents(megatron, sharded, wide, name):
    folder = {"documents": sharded / "train", "wide": wide}[name]
    documents = documents_of(folder)
    read = np.load(megatron / f"{name}.npz")
    assert read["tokens"].dtype == {"documents": np.uint16, "wide": np.int32}[name]
    assert read["lengths"].tolist() == [len(document) for document in documents]
    assert read["tokens"].tolist() == [token for document in documents for token in document]
    assert read["marks"].tolist() == list(range(len(documents) + 1))


def test_megatron_reads_sentences_as_sequences_and_document_boundaries(megatron, with_sentences):
    read = np.load(megatron / "sentences.npz")
    with open_corpus(with_sentences) as corpus:
        assert corpus.num_packs > 2 * len(corpus.manifest.shards) > 4
        packs = range(corpus.num_packs)
        sentences = np.concatenate([corpus.sentence_starts(pack) for pack in packs])
        starts = np.concatenate([corpus.document_starts(pack) for pack in packs])
        assert np.array_equal(read["tokens"], corpus.read(0, corpus.num_tokens))
    ends = np.cumsum(read["lengths"])
    assert np.array_equal(ends - read["lengths"], sentences)
    assert read["marks"][0] == 0
    assert np.array_equal(ends[read["marks"][1:-1] - 1], starts[1:])
    assert read["marks"][-1] == len(sentences)


@pytest.mark.parametrize("name", [*TYPES, "modes"])
def test_files_built_by_megatron_become_a_corpus(megatron, tokenizer, tmp_path, name):
    result = import_megatron(megatron / name, tmp_path / "corpus", tokenizer=tokenizer.path)
    assert (result.added_ends, result.cuts, result.empty) == (0, 0, 0)
    joined = [[token for sequence in document for token in sequence] for document in DOCUMENTS]
    assert documents_of(tmp_path / "corpus") == joined
    assert verify_corpus(tmp_path / "corpus", "full").faults == ()
    manifest = load_manifest(tmp_path / "corpus")
    assert manifest.dtype == "uint16"
    assert manifest.tokenizer.sha256 == tokenizer.sha256
    source = manifest.inputs[0]
    assert (source.source, source.documents) == (f"{name}.bin", 3)
    assert manifest.totals.sents == 0


def test_sequences_become_sentences_on_request(megatron, tokenizer, tmp_path):
    out = tmp_path / "corpus"
    import_megatron(megatron / "int32", out, tokenizer=tokenizer.path, sentences=True)
    with open_corpus(out) as corpus:
        assert corpus.sentence_starts(0).tolist() == [0, 3, 5, 7, 8]
    assert verify_corpus(out, "full").faults == ()


def test_a_sentence_that_is_split_continues_in_the_next_document(tokenizer, tmp_path):
    prefix = write_files(tmp_path / "made", [[90], [], [91, 2, 92], [93, 2], []])
    index = prefix.with_suffix(".idx")  # The index declares a single document.
    marks = np.array([0, 5], "<i8").tobytes()
    index.write_bytes(index.read_bytes()[:26] + struct.pack("<Q", 2) + index.read_bytes()[34:94])
    index.write_bytes(index.read_bytes() + marks)
    out = tmp_path / "corpus"
    import_megatron(prefix, out, tokenizer=tokenizer.path, sentences=True)
    assert documents_of(out) == [[90, 91, 2], [92, 93, 2]]
    with open_corpus(out) as corpus:
        assert corpus.sentence_starts(0).tolist() == [0, 1, 3, 4]
    assert verify_corpus(out, "full").faults == ()


def test_an_exported_corpus_is_imported_with_the_same_bytes_every_time(
    with_sentences, tokenizer, tmp_path, monkeypatch
):
    export_megatron(with_sentences, tmp_path / "made", sentences=True)
    options = {"tokenizer": tokenizer.path, "pack_tokens": 200, "shard_tokens": 1000}
    for name, documents_at_once in (("one", 4096), ("two", 7)):
        monkeypatch.setattr("data_tools.megatron_files._DOCUMENTS_AT_ONCE", documents_at_once)
        import_megatron(tmp_path / "made", tmp_path / name, sentences=True, **options)
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")
    one, first = tree_bytes(tmp_path / "one"), tree_bytes(with_sentences)
    del one["manifest.json"], first["manifest.json"]  # They differ in the width of source ids.
    assert one == first


def test_documents_get_a_missing_end_token_and_are_split_at_extra_ones(tokenizer, tmp_path):
    prefix = write_files(tmp_path / "made", [[90, 91], [92, 2, 93, 2], [], [94, 2, 95]])
    options = ["--out", str(tmp_path / "corpus"), "--tokenizer", str(tokenizer.path)]
    result = CliRunner().invoke(app, ["import-megatron", str(prefix), *options])
    assert "5 documents, 11 tokens; eos added to 2 documents, 2 cut" in result.output
    assert "1 empty documents skipped" in result.output
    expected = [[90, 91, 2], [92, 2], [93, 2], [94, 2], [95, 2]]
    assert documents_of(tmp_path / "corpus") == expected
    assert verify_corpus(tmp_path / "corpus", "full").faults == ()


@pytest.mark.parametrize("token", [450, -1])
def test_an_id_outside_the_vocabulary_is_refused_with_its_document(tokenizer, tmp_path, token):
    documents = [[90, 2]] * 50 + [[90, token, 2]]
    prefix = write_files(tmp_path / "made", documents)
    before = tree_bytes(tmp_path)
    with pytest.raises(InputError, match=f"document 50, token 1: id {token} is not in the vocab"):
        import_megatron(
            prefix, tmp_path / "corpus", tokenizer=tokenizer.path, pack_tokens=4, shard_tokens=8
        )
    assert tree_bytes(tmp_path) == before


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def put(path, offset, content):
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda bin, idx: cut(bin, 17), r"made\.bin has 17 bytes, and .*made\.idx says 20"),
        (lambda bin, idx: cut(idx, 60), r"made\.idx has 60 bytes, and its header needs 82"),
        (lambda bin, idx: cut(idx, 20), r"made\.idx does not begin like"),
        (
            lambda bin, idx: put(idx, 0, b"XMIDIDX"),
            r"made\.idx does not begin like",
        ),
        (lambda bin, idx: put(idx, 9, b"\2"), r"made\.idx has version 2; only 1 is supported"),
        (lambda bin, idx: put(idx, 17, b"\7"), "token type 7 at byte 17 is not an integer type"),
        (lambda bin, idx: put(idx, 26, b"\0"), "has no document mark"),
        (lambda bin, idx: put(idx, 34, b"\1"), "sequence 1 does not follow the one before"),
        (lambda bin, idx: put(idx, 42, b"\7"), "sequence 0 does not follow the one before"),
        (lambda bin, idx: put(idx, 50, b"\7"), r"made\.bin has 20 bytes, and .* says 15"),
        (lambda bin, idx: put(idx, 58, b"\1"), "the document marks from byte 58 on run from 1"),
        (lambda bin, idx: bin.unlink(), r"no file .*made\.bin"),
        (lambda bin, idx: bin.write_bytes(b""), r"made\.bin has 0 bytes"),
    ],
)
def test_damaged_or_foreign_files_are_refused_in_one_line(tokenizer, tmp_path, damage, message):
    prefix = write_files(tmp_path / "made", [[90, 91, 2], [92, 2]])
    damage(prefix.with_suffix(".bin"), prefix.with_suffix(".idx"))
    with pytest.raises(InputError, match=message) as caught:
        import_megatron(prefix, tmp_path / "corpus", tokenizer=tokenizer.path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "corpus").exists()


def test_decreasing_document_boundaries_are_refused(tokenizer, tmp_path):
    prefix = write_files(tmp_path / "made", [[90, 2], [91, 2], [92, 2]])
    put(prefix.with_suffix(".idx"), 34 + 3 * 12 + 8, b"\3")
    with pytest.raises(InputError, match="document marks of documents 0 to 2 do not ascend"):
        import_megatron(prefix, tmp_path / "corpus", tokenizer=tokenizer.path)


def test_a_dataset_without_tokens_is_refused(tokenizer, tmp_path):
    prefix = write_files(tmp_path / "made", [[], []])
    with pytest.raises(InputError, match="has no token"):
        import_megatron(prefix, tmp_path / "corpus", tokenizer=tokenizer.path)
    assert not (tmp_path / "corpus").exists()


def test_ids_of_a_hugging_face_tokenizer_become_a_corpus(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate([*alphabet, "<|endoftext|>"])}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>"])
    made.save(str(tmp_path / "tokenizer.json"))
    ids = made.encode("hello").ids
    prefix = write_files(tmp_path / "made", [ids, ids])
    import_megatron(prefix, tmp_path / "corpus", tokenizer=tmp_path / "tokenizer.json")
    assert documents_of(tmp_path / "corpus") == [[*ids, 256]] * 2
    assert verify_corpus(tmp_path / "corpus", "full").faults == ()
    assert [sample.text for sample in inspect_corpus(tmp_path / "corpus").documents] == [
        "hello"
    ] * 2


def test_two_imports_into_one_folder_are_refused(tokenizer, tmp_path):
    prefix = write_files(tmp_path / "made", [[90, 2]])
    with (
        only_writer(tmp_path / ".corpus.import.part"),
        pytest.raises(InputError, match="another process is writing"),
    ):
        import_megatron(prefix, tmp_path / "corpus", tokenizer=tokenizer.path)
    assert not (tmp_path / "corpus").exists()


def test_a_killed_import_starts_over_and_a_finished_one_is_not_changed(tokenizer, tmp_path):
    prefix = write_files(tmp_path / "made", [[90, 2]])
    left = tmp_path / ".corpus.import.part"
    left.mkdir()
    (left / "tokens-000007.tar").write_bytes(b"half")
    import_megatron(prefix, tmp_path / "corpus", tokenizer=tokenizer.path)
    assert not left.exists()
    before = tree_bytes(tmp_path / "corpus")
    assert "tokens-000007.tar" not in before
    with pytest.raises(InputError, match="exists already"):
        import_megatron(prefix, tmp_path / "corpus", tokenizer=tokenizer.path)
    assert tree_bytes(tmp_path / "corpus") == before


def test_an_export_replaces_files_only_with_the_option(sharded, tmp_path):
    command = ["export-megatron", str(sharded / "train"), str(tmp_path / "made")]
    first = CliRunner().invoke(app, command)
    count = load_manifest(sharded / "train").num_documents
    assert f"{count} documents, {count} sequences" in first.output
    files = tree_bytes(tmp_path)
    (tmp_path / "made.bin").write_bytes(b"mine")
    with pytest.raises(InputError, match="--force"):
        export_megatron(sharded / "train", tmp_path / "made")
    assert (tmp_path / "made.bin").read_bytes() == b"mine"
    export_megatron(sharded / "train", tmp_path / "made", force=True)
    assert tree_bytes(tmp_path) == files


def test_an_old_index_never_remains_beside_new_tokens(sharded, tmp_path, monkeypatch):
    prefix = write_files(tmp_path / "made", [[90, 2]])
    finish = megatron_module.finish_file

    def fail_at_the_index(part, path):
        if path.suffix == ".idx":
            raise OSError(28, "No space left on device")
        finish(part, path)

    monkeypatch.setattr(megatron_module, "finish_file", fail_at_the_index)
    with pytest.raises(OSError, match="No space"):
        export_megatron(sharded / "train", prefix, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["made.bin"]


def test_a_failed_export_leaves_no_files(sharded, tmp_path):
    folder = shutil.copytree(sharded / "train", tmp_path / "train")
    tar = folder / load_manifest(folder).shards[-1].file
    put(tar, scan_tar(tar)[-1].tokens_offset, b"\xff")
    with pytest.raises(InputError, match="crc32"):
        export_megatron(folder, tmp_path / "out" / "made")
    assert list((tmp_path / "out").iterdir()) == []


def test_sentences_can_only_be_exported_from_a_corpus_with_sentences(sharded, tmp_path):
    with pytest.raises(InputError, match="no sentence starts"):
        export_megatron(sharded / "train", tmp_path / "made", sentences=True)
