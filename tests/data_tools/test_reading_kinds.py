"""Files of many kinds give the right documents, for any writer and any file name."""

import bz2
import gzip
import io
import json
import lzma
import tarfile

import pyarrow
import pyarrow.compute
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard
from webdataset.writer import TarWriter

from data_tools.errors import InputError
from data_tools.reading.documents import Document, Skipped
from data_tools.reading.sample_text import sample_text
from data_tools.reading.standard_input import standard_input
from data_tools.reading.text_sources import find_sources
from tests.data_tools.test_reading_records import LINES, ROWS, read

TEXTS = [row["text"] for row in ROWS]
PACKERS = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}
TABLE = pyarrow.Table.from_pylist(ROWS)


def texts_of(path, **options):
    return [found.text for found in read(path, **options)[0] if isinstance(found, Document)]


@pytest.mark.parametrize("name", ["a.ndjson", "a.JL", "a.jsonlines", "part-00000", "dump.data"])
@pytest.mark.parametrize("ending", PACKERS)
def test_json_lines_are_recognized_by_content_if_the_ending_is_ambiguous(
    tmp_path, name, ending, caplog
):
    path = tmp_path / (name + ending)
    path.write_bytes(PACKERS[ending](LINES))
    for piece_bytes in (1 << 30, 2000):
        assert texts_of(path, piece_bytes=piece_bytes) == TEXTS
    assert ("read as JSON, by content" in caplog.text) == (name in ("part-00000", "dump.data"))


def test_a_compressed_file_without_an_ending_is_decompressed(tmp_path):
    (tmp_path / "dump").write_bytes(lzma.compress(LINES))
    assert texts_of(tmp_path / "dump") == TEXTS
    (tmp_path / "old.txt.lzma").write_bytes(lzma.compress(b"one", format=lzma.FORMAT_ALONE))
    assert texts_of(tmp_path / "old.txt.lzma") == ["one"]


@pytest.mark.parametrize("name", ["a.jsonl.xz", "a.jsonl.bz2"])
def test_truncated_and_damaged_compressed_files_are_reported_in_one_line(tmp_path, name):
    content = (lzma.compress if name.endswith("xz") else bz2.compress)(LINES)
    damaged = content[:60] + b"\xaa" * 40 + content[100:]
    for broken in (b"", content[: len(content) // 2], content[:-1], damaged, b"plain text " * 9):
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(InputError, match=rf"{name} is truncated or damaged.*fetch it") as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_read_value_by_value(tmp_path, indent):
    rows = [{"text": "a"}, {"text": ""}, {"text": '[{"b": 1}]' * 500_000}, {"text": "ü😀"}]
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(rows, indent=indent) + "\n")
    for piece_bytes in (1 << 30, 1000):
        found, pieces = read(tmp_path / "a.json", piece_bytes=piece_bytes)
        assert pieces == 1
        assert found[1] == Skipped("empty", "a.json value 2")
        assert [it.text for it in found if isinstance(it, Document)] == [
            row["text"] for row in rows if row["text"]
        ]
    with pytest.raises(InputError, match=r"a\.json value 3 is longer than .*raise --max"):
        read(tmp_path / "a.json", max_document_bytes=2 << 20)


def test_json_objects_over_several_lines_are_read(tmp_path):
    printed = json.dumps({"text": "a", "list": [1, 2]}, indent=1)
    (tmp_path / "a.json").write_text(printed + "\n" + printed + "\n")
    assert texts_of(tmp_path / "a.json") == ["a", "a"]
    sources = find_sources([str(tmp_path / "a.json")])
    assert list(sample_text(sources, max_bytes=1000)) == ["a", "a"]


@pytest.mark.parametrize("on_invalid", ["stop", "skip"])
def test_a_truncated_array_is_an_error(tmp_path, on_invalid):
    (tmp_path / "a.json").write_text('[{"text": "a"},\n{"text": "b"}')
    with pytest.raises(InputError, match=r"a\.json value 2 ends inside an array"):
        read(tmp_path / "a.json", on_invalid=on_invalid)
    (tmp_path / "a.json").write_text('[{"text": "a"},\n{"text" oops}, {"text": "c"}]' + " " * 99)
    with pytest.raises(InputError, match=r"value 2 is not valid JSON .*jq -c"):
        read(tmp_path / "a.json", on_invalid=on_invalid)
    (tmp_path / "a.json").write_text('[{"text": "a"}, 7, {"body": "c"}]')
    with pytest.raises(InputError, match=r"a\.json value 2 is a JSON int, not an object"):
        read(tmp_path / "a.json")


def arrays(kind):
    """Arrow arrays of `kind`: plain, dictionary-encoded and run-end-encoded."""
    as_text = pyarrow.types.is_string(kind) or "string" in str(kind)
    values = ["a", None, "", "b"] if as_text else [b"a", None, b"", b"b"]
    plain = pyarrow.array(values, kind)
    there = pyarrow.array([value or values[2] for value in values], kind)
    numbers = pyarrow.array([0, None, 2, 3], pyarrow.int32())
    yield plain
    yield pyarrow.DictionaryArray.from_arrays(numbers, there)
    yield pyarrow.RunEndEncodedArray.from_arrays(
        pyarrow.array([1, 2, 3, 4], pyarrow.int32()), plain
    )


def write_table(table, path):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=3)
    else:
        new = pyarrow.ipc.new_stream if path.stem == "stream" else pyarrow.ipc.new_file
        with new(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "file.arrow", "stream.arrow"])
@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.string(),
        pyarrow.large_string(),
        pyarrow.string_view(),
        pyarrow.binary(),
        pyarrow.large_binary(),
        pyarrow.binary_view(),
    ],
    ids=str,
)
def test_text_of_every_arrow_type_is_read(tmp_path, name, kind):
    for array in arrays(kind):
        table = pyarrow.table({"other": [1, 2, 3, 4], "text": array})
        try:
            path = write_table(table, tmp_path / name)
        except (NotImplementedError, pyarrow.ArrowNotImplementedError):
            assert (
                name == "a.parquet"
            )  # Parquet has no run-end encoding and no dictionaries of views.
            continue
        for piece_bytes in (1 << 30, 1):
            found, _ = read(path, piece_bytes=piece_bytes)
            assert [getattr(it, "text", None) for it in found] == ["a", None, None, "b"]


def test_text_of_an_extension_type_is_read(tmp_path):
    storage = pyarrow.array(["a", "b"], pyarrow.string())
    array = pyarrow.ExtensionArray.from_storage(pyarrow.json_(pyarrow.string()), storage)
    for name in ("a.parquet", "file.arrow"):
        path = write_table(pyarrow.table({"text": array}), tmp_path / name)
        assert texts_of(path) == ["a", "b"]


@pytest.mark.parametrize("place", ["{}", "file://{}"])
@pytest.mark.parametrize("name", ["stream.arrow", "file.feather", "first.feather", "zstd.ipc"])
def test_arrow_files_give_the_same_documents_for_any_split(tmp_path, name, place):
    path = tmp_path / name
    if name.startswith(("first", "zstd")):
        zstd = {"compression": "zstd", "chunksize": 40}
        options = {"version": 1} if name.startswith("first") else zstd
        pyarrow.feather.write_feather(TABLE, path, **options)
    else:
        write_table(TABLE, path)
    for piece_bytes in (1 << 30, 2000):
        found, pieces = read(place.format(path), piece_bytes=piece_bytes, id_field="id")
        assert [document.text for document in found] == TEXTS
        assert [document.id for document in found] == [str(row["id"]) for row in ROWS]
    assert (pieces > 1) == name.startswith(("file", "zstd"))
    sources = find_sources([str(path)])
    assert sorted(sample_text(sources, max_bytes=1 << 20)) == sorted(TEXTS)


@pytest.mark.parametrize("name", ["stream.arrow", "file.arrow"])
def test_a_truncated_arrow_file_is_reported_in_one_line(tmp_path, name):
    content = write_table(TABLE, tmp_path / name).read_bytes()
    for size in (0, 1, len(content) // 2, len(content) - 1, len(content) - 8):
        (tmp_path / name).write_bytes(content[:size])
        with pytest.raises(InputError, match=rf"{name} is (truncated|not a complete)") as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.parquet", "file.arrow", "stream.arrow"])
def test_a_null_or_missing_column_in_one_file_is_handled_by_on_invalid(tmp_path, name):
    columns = {
        "null column": {"text": pyarrow.nulls(4)},
        "no text field": {"body": ["x"] * 4},
        "not a string": {"text": [1, 2, 3, 4]},
    }
    for reason, column in columns.items():
        path = write_table(pyarrow.table(column), tmp_path / name)
        with pytest.raises(InputError, match=rf"{name}.* column .* --on-invalid skip") as error:
            read(path)
        assert "\n" not in str(error.value)
        found, _ = read(path, on_invalid="skip")
        assert [it.reason for it in found] == [reason] * 4


def write_tar(path, *samples):
    with TarWriter(str(path), compress=path.suffix == ".gz") as tar:
        for number, sample in enumerate(samples):
            tar.write({"__key__": f"part/{number:04d}", **sample})
    return path


@pytest.mark.parametrize("place", ["{}", "file://{}", "pipe:cat {}"])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_webdataset_tars_give_their_text_members(tmp_path, name, place):
    samples = [{"txt": "one", "jpg": b"\xff\xd8"}, {"json": {"text": "two"}}, {"txt": ""}]
    both = {"txt": "three", "json": {"text": "not this"}, "cls": b"4"}
    path = write_tar(tmp_path / name, *samples, both, {"png": b"\x89"})
    found, _ = read(place.format(path))
    assert [it for it in found if isinstance(it, Document)] == [
        Document("one", f"{name} part/0000.txt"),
        Document("two", f"{name} part/0001.json"),
        Document("three", f"{name} part/0003.txt"),
    ]
    assert sorted(it.reason for it in found if isinstance(it, Skipped)) == [
        ".cls in a tar",
        ".jpg in a tar",
        ".json beside .txt in a tar",
        ".png in a tar",
        "empty",
    ]


def test_a_json_member_without_text_is_handled_by_on_invalid(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"json": {"body": "x"}}, {"txt": b"\xff"})
    with pytest.raises(InputError, match=r"a\.tar part/0000\.json has no field 'text'"):
        read(path)
    found, _ = read(path, on_invalid="skip")
    assert [it.reason for it in found] == ["no text field", "not UTF-8"]


def test_a_truncated_or_concatenated_tar_is_an_error(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"txt": "one"}, {"txt": "two"})
    content = path.read_bytes()
    for broken, what in (
        (content[:1200], "truncated"),  # Inside the second header.
        (content[:1024], "truncated"),  # Between two members.
        (content[:1030], "truncated"),
        (content + content, "tars were joined"),
        (b"this is no tar " * 99, "truncated or damaged"),
        (b"", "truncated or damaged"),
    ):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=rf"a\.tar .*{what}") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_a_failing_command_reports_a_bad_tar_in_one_line(tmp_path):
    write_tar(tmp_path / "a.tar", {"txt": "one"})
    with pytest.raises(InputError, match=r"pipe:cat .*a\.tar; exit 3 ended with status 3"):
        read(f"pipe:cat {tmp_path}/a.tar; exit 3")


def test_the_size_of_a_tar_sample_is_that_of_its_text(tmp_path):
    story = {"txt": "x" * 1000, "jpg": b"\xff" * 100_000}
    sources = find_sources([str(write_tar(tmp_path / "a.tar", *[story] * 20))])
    assert sum(map(len, sample_text(sources, max_bytes=20_000))) == 20_000


def test_misleading_file_names_are_reported(tmp_path):
    (tmp_path / "a.txt").write_bytes(gzip.compress(b"text"))
    (tmp_path / "b.txt").write_bytes("text".encode("utf-16"))
    assert read(tmp_path / "a.txt")[0] == [Skipped("not UTF-8 but gzip", "a.txt")]
    assert read(tmp_path / "b.txt")[0] == [Skipped("not UTF-8 but UTF-16", "b.txt")]
    (tmp_path / "c.jsonl").write_bytes(gzip.compress(LINES))
    with pytest.raises(InputError, match=r"c\.jsonl is gzip, not JSON in UTF-8"):
        read(tmp_path / "c.jsonl")
    (tmp_path / "d.parquet.gz").write_bytes(gzip.compress(b"PAR1"))
    with pytest.raises(InputError, match=r"d\.parquet\.gz is compressed, .*\(gzip -d\)"):
        read(tmp_path / "d.parquet.gz")
    for name, content in (("e", b"PK\x03\x04zip"), ("e.lz4", b"\x04\x22\x4d\x18"), ("e.zip", b"x")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name} is .*not read: unpack it with"):
            read(tmp_path / name)


def test_files_of_other_kinds_are_recognized_by_content(tmp_path):
    write_table(TABLE, tmp_path / "a.parquet").rename(tmp_path / "table")
    write_table(TABLE, tmp_path / "file.arrow").rename(tmp_path / "batches")
    write_tar(tmp_path / "a.tar", {"txt": "one"}).rename(tmp_path / "tar")
    assert texts_of(tmp_path / "table", piece_bytes=2000) == TEXTS
    assert texts_of(tmp_path / "batches") == TEXTS
    assert texts_of(tmp_path / "tar") == ["one"]
    (tmp_path / "notes").write_text('{\n "cells": []\n}')
    assert texts_of(tmp_path / "notes") == ['{\n "cells": []\n}']


def test_a_tar_of_tokens_is_refused(sharded):
    tar = next((sharded / "train").glob("*.tar"))
    with pytest.raises(InputError, match=r"\.tar has tokens that `bigtrain data shard` wrote"):
        read(tar)


LIKE_OTHERS = ["PAR1S 7e", "ORCHESTRA", "BZhang", "FEA1 is a part", "[x] {y}", "Rar!\n", "PK", "7z"]
LIKE_OTHERS += ["%PDF-1.7 is a version", "x" * 257 + "ustar " + "x" * 300]


@pytest.mark.parametrize("text", LIKE_OTHERS)
def test_a_text_that_starts_like_another_kind_is_text(tmp_path, text):
    for name in ("notes", "notes.md", "notes.txt"):
        (tmp_path / name).write_text(text)
        assert texts_of(tmp_path / name) == [text]


def test_archives_and_office_documents_are_recognized_by_their_signatures(tmp_path):
    for what, head in {"a rar archive": b"Rar!\x1a\x07\x01\0", "a PDF": b"%PDF-1.7\n%"}.items():
        (tmp_path / "file").write_bytes(head)
        with pytest.raises(InputError, match=f"file is {what}"):
            read(tmp_path / "file")


def test_several_columns_of_the_same_name_are_refused(tmp_path):
    table = pyarrow.table([pyarrow.array(["a"])] * 2, names=["text", "text"])
    for name in ("a.parquet", "file.arrow"):
        path = write_table(table, tmp_path / name)
        with pytest.raises(InputError, match=r"several columns 'text'"):
            read(path)


def test_a_member_that_webdataset_skips_is_counted(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("._0.txt", "0.txt", "README"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"text"))
    found, _ = read(tmp_path / "a.tar")
    assert sorted(str(getattr(it, "reason", it.place)) for it in found) == [
        ".txt in a tar",
        "a.tar 0.txt",
        "without an ending in a tar",
    ]


@pytest.mark.parametrize("kind", ["tar", "parquet", "arrow"])
def test_standard_input_of_another_kind_is_refused_by_name(tmp_path, kind):
    path = tmp_path / f"file.{kind}"
    write_tar(path, {"txt": "one"}) if kind == "tar" else write_table(TABLE, path)
    refusal = pytest.raises(InputError, match=rf"is {kind}, not JSON Lines: give the file")
    with path.open("rb") as stream, refusal, standard_input(tmp_path / "out", stream):
        pass
