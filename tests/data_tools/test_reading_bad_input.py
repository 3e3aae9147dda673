"""Unreadable input gives one line with fault, place and remedy, or is skipped and counted."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from data_tools.errors import InputError
from data_tools.reading.documents import Document, Skipped
from tests.data_tools.test_reading_records import LINES, read, write_rows

BAD_LINES = {
    b'{"text": "a" oops}': ("invalid JSON", r"Expecting ',' delimiter, column 14"),
    b"[1, 2]": ("invalid JSON", "is a JSON list, not an object"),
    b'{"text": "\xff"}': ("invalid JSON", r"byte 0xff is not UTF-8, column 11"),
    b'{"text": "\\ud83d"}': ("invalid JSON", r"half a surrogate pair, '\\ud83d', in 'text'"),
    b'{"a": ' + b"[" * 100_000: ("invalid JSON", "recursion"),
    b'{"content": "x", "url": 1}': (
        "no text field",
        r"has no field 'text' \(its fields: 'content', 'url'\): choose --text-field",
    ),
    b'{"text": 7}': ("not a string", "has a int in field 'text', not a string"),
    b'{"text": "' + b"x" * 1100 + b'"}': ("too long", "is longer than .* MiB: raise --max-doc"),
}
GOOD = b'{"text": "good"}\n'


def read_line(tmp_path, line, **options):
    content = GOOD * 7 + line + b"\n" + GOOD
    (tmp_path / "web.jsonl").write_bytes(content)
    limit = 1000 if line.endswith(b'x"}') else 1 << 20
    return read(tmp_path / "web.jsonl", max_document_bytes=limit, **options)[0]


@pytest.mark.parametrize("piece_bytes", [1 << 30, 20])
@pytest.mark.parametrize(("line", "message"), BAD_LINES.items())
def test_a_bad_line_is_named_with_file_line_and_remedy(tmp_path, line, message, piece_bytes):
    with pytest.raises(InputError, match=message[1]) as error:
        read_line(tmp_path, line, piece_bytes=piece_bytes)
    message = str(error.value)
    assert message.startswith(f"{tmp_path}/web.jsonl line 8 (byte {7 * len(GOOD)}) ")
    assert message.endswith("or leave such documents out with --on-invalid skip")
    assert "\n" not in message


@pytest.mark.parametrize(("line", "message"), BAD_LINES.items())
def test_a_bad_line_may_be_skipped_and_is_counted(tmp_path, line, message):
    found = read_line(tmp_path, line, on_invalid="skip")
    good = [Document("good", f"web.jsonl line {number}") for number in (1, 2, 3, 4, 5, 6, 7, 9)]
    assert found == [*good[:7], Skipped(message[0], "web.jsonl line 8"), good[7]]


@pytest.mark.parametrize("line", ['{"text": "a", "meta": {', '{"text":', '["a", 1', "[1, 2]"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jl", "a.jsonlines.gz"])
def test_a_damaged_first_line_is_one_bad_line(tmp_path, name, line):
    content = line.encode() + b"\n" + GOOD * 2
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(InputError, match=rf"{name} line 1 .*--on-invalid skip"):
        read(tmp_path / name)
    found, _ = read(tmp_path / name, on_invalid="skip")
    assert [getattr(it, "reason", "document") for it in found] == [
        "invalid JSON",
        "document",
        "document",
    ]


@pytest.mark.parametrize(
    "content", [b'[\n{"text": "good"}\n]', b'[{"text": "good"},\n' + GOOD + b"]"]
)
def test_a_json_array_with_one_object_per_line_is_an_array_for_any_file_name(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    found, _ = read(tmp_path / "a.jsonl")
    assert {it.text for it in found} == {"good"}


def test_a_complete_surrogate_pair_is_valid(tmp_path):
    assert read_line(tmp_path, b'{"text": "\\ud83d\\ude00"}')[7].text == "😀"


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_truncated_file_is_reported_in_one_line(tmp_path, name):
    path = write_rows(tmp_path / name)
    content = path.read_bytes()
    for size in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(
            InputError, match=rf"{name} is (truncated|not a complete).*fetch it"
        ) as error:
            read(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "pack"), [("gz", gzip.compress), ("zst", zstandard.compress)])
def test_a_damaged_compressed_file_is_reported_in_one_line(tmp_path, name, pack):
    content = bytearray(pack(LINES))
    content[len(content) // 2 : len(content) // 2 + 40] = b"\xaa" * 40
    path = tmp_path / f"a.jsonl.{name}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is (truncated or damaged|not valid JSON)"):
        read(path)


def test_a_file_of_another_kind_under_a_known_ending_is_reported_in_one_line(tmp_path):
    for name in ("a.jsonl.gz", "a.jsonl.zst", "a.parquet"):
        (tmp_path / name).write_bytes(b"this is plain text\n" * 10)
        with pytest.raises(InputError, match=r"(damaged|not a complete Parquet)"):
            read(tmp_path / name)


def test_for_a_missing_parquet_column_the_existing_columns_are_named(tmp_path):
    write_rows(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"no column 'body' \(its columns: 'id', 'text'\)"):
        read(tmp_path / "a.parquet", text_field="body")
    with pytest.raises(InputError, match=r"column 'id' has type int64, not text"):
        read(tmp_path / "a.parquet", text_field="id")


def test_parquet_values_that_are_not_text_are_named_by_row(tmp_path):
    values = pyarrow.array([b"good", b"\xff", b"x" * 2000], type=pyarrow.binary())
    pyarrow.parquet.write_table(pyarrow.table({"text": values}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet row 1 is not UTF-8"):
        read(tmp_path / "a.parquet")
    found, _ = read(tmp_path / "a.parquet", on_invalid="skip", max_document_bytes=1000)
    assert [it.reason for it in found[1:]] == ["not UTF-8", "too long"]


def test_a_text_file_too_long_for_one_document_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"x" * 2000)
    with pytest.raises(InputError, match=r"a\.txt is longer than .*raise --max-document-mb"):
        read(tmp_path / "a.txt", max_document_bytes=1000)
    found, _ = read(tmp_path / "a.txt", max_document_bytes=1000, on_invalid="skip")
    assert found == [Skipped("too long", "a.txt")]


def sparse_line(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.write(GOOD)
        file.seek(size, os.SEEK_CUR)
        file.write(b"\n" + GOOD)
    return path


def reasons_and_peak(path: Path) -> tuple[list[str], int]:
    """The reasons for which a new process skips a file's content, and its peak memory."""
    script = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from data_tools.reading.documents import ReadOptions\n"
        "from data_tools.reading.read_pieces import plan_pieces, read_piece\n"
        "from data_tools.reading.text_sources import find_sources\n"
        "(source,) = find_sources([sys.argv[1]])\n"
        "options = ReadOptions(on_invalid='skip', max_document_bytes=16 << 20)\n"
        "(piece,) = plan_pieces(source, piece_bytes=1 << 40)\n"
        "for found in read_piece(piece, options): print(getattr(found, 'reason', 'document'))\n"
        "print(re.search(r'VmHWM:\\s*(\\d+) kB', Path('/proc/self/status').read_text())[1])\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, str(path)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    *found, peak = ran.stdout.split()
    return found, int(peak) << 10


@pytest.mark.parametrize("size", [1 << 28, pytest.param(1 << 31, marks=pytest.mark.slow)])
def test_a_line_of_two_gigabytes_is_never_held_in_memory(tmp_path, size):
    path = sparse_line(tmp_path / "web.jsonl", size)
    found, peak = reasons_and_peak(path)
    assert "".join(found) == "documenttoolongdocument"
    assert peak < 160 << 20
    with pytest.raises(InputError, match=r"web\.jsonl line 2 \(byte 17\) is longer than 1 MiB"):
        read(path, max_document_bytes=1 << 20)


def test_a_highly_compressed_line_is_not_decompressed_at_once(tmp_path):
    packer = zstandard.ZstdCompressor().compressobj()
    content = b"".join(packer.compress(bytes(16 << 20)) for _ in range(24)) + packer.flush()
    (tmp_path / "a.jsonl.zst").write_bytes(content)
    found, peak = reasons_and_peak(tmp_path / "a.jsonl.zst")
    assert "".join(found) == "toolong"
    assert peak < 220 << 20
