"""Records are read from every kind of file, from any place and for any split into pieces."""

import gzip
import json
from itertools import pairwise

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.errors import InputError
from data_tools.reading.documents import Document, InputFile, Piece, ReadOptions, Skipped
from data_tools.reading.json_lines import read_json_lines
from data_tools.reading.read_pieces import plan_pieces, read_piece
from data_tools.reading.text_sources import find_sources

ROWS = [
    {"id": number, "text": f"text {number} 中\r\n" + "x" * (number % 70)} for number in range(300)
]
LINES = "".join(json.dumps(row, ensure_ascii=row["id"] % 2 == 0) + "\n" for row in ROWS).encode()


def write_rows(path):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=40)
    elif path.suffix == ".gz":  # Several gzip members, as after appending.
        path.write_bytes(gzip.compress(LINES[:7000]) + gzip.compress(LINES[7000:]))
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.compress(LINES[:7000]) + zstandard.compress(LINES[7000:]))
    else:
        path.write_bytes(LINES)
    return path


def read(path, *, piece_bytes=1 << 30, **options):
    (source,) = find_sources([str(path)])
    pieces = plan_pieces(source, piece_bytes=piece_bytes)
    found = [it for piece in pieces for it in read_piece(piece, ReadOptions(**options))]
    return found, len(pieces)


@pytest.mark.parametrize("place", ["{}", "file://{}"])
@pytest.mark.parametrize(
    ("name", "can_be_cut"),
    [
        ("a.jsonl", True),
        ("a.json.gz", False),
        ("a.jsonl.zst", False),
        ("a.parquet", True),
    ],
)
def test_every_kind_gives_the_same_documents(tmp_path, name, can_be_cut, place):
    path = write_rows(tmp_path / name)
    for piece_bytes in (1 << 30, 2000):
        found, pieces = read(place.format(path), piece_bytes=piece_bytes, id_field="id")
        assert [document.text for document in found] == [row["text"] for row in ROWS]
        assert [document.id for document in found] == [str(row["id"]) for row in ROWS]
    assert (pieces > 1) == can_be_cut


def test_files_in_an_object_store_are_read():
    with fsspec.open("memory://store/part/a.jsonl", "wb") as file:
        file.write(LINES)
    found, pieces = read("memory://store/part", piece_bytes=5000)
    assert [document.text for document in found] == [row["text"] for row in ROWS]
    assert pieces > 1


@given(
    cuts=st.lists(st.integers(0, 120), max_size=6),
    lengths=st.lists(st.integers(0, 30), max_size=8),
    ends_with_newline=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_each_line_is_read_once_for_any_split(tmp_path_factory, cuts, lengths, ends_with_newline):
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    lines = [
        json.dumps({"text": f"{number}{'x' * length}"}) for number, length in enumerate(lengths)
    ]
    content = "\n".join(lines) + ("\n" if ends_with_newline else "")
    path.write_text(content)
    file = InputFile(str(path), path.name, len(content), "")
    edges = sorted({0, *(cut for cut in cuts if cut < len(content)), len(content)})
    pieces = [Piece(file, start, stop, stop - start) for start, stop in pairwise(edges)]
    found = [it.text for piece in pieces for it in read_json_lines(piece, ReadOptions())]
    assert found == [json.loads(line)["text"] for line in lines]


def test_a_document_has_its_source_and_line(tmp_path):
    found, _ = read(write_rows(tmp_path / "a.jsonl"))
    assert found[16].place == "a.jsonl line 17"
    found, _ = read(tmp_path / "a.jsonl", piece_bytes=5000)
    offset = LINES.index(b'{"id": 299')
    assert found[299].place == f"a.jsonl byte {offset}"
    found, _ = read(write_rows(tmp_path / "a.parquet"), piece_bytes=2000)
    assert found[299].place == "a.parquet row 299"


def test_blank_lines_are_skipped_and_empty_texts_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text('\ufeff\n{"text": ""}\r\n\n  \n{"text": null}\n{"text": "x"}')
    found, _ = read(tmp_path / "a.jsonl")
    empty = [Skipped("empty", "a.jsonl line 2"), Skipped("empty", "a.jsonl line 5")]
    assert found == [*empty, Document("x", "a.jsonl line 6")]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pyarrow.large_string(), ["a", None, "", "b"]),
        (pyarrow.binary(), [b"a", None, b"", b"b"]),
        (pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), ["a", None, "", "b"]),
    ],
)
def test_parquet_columns_of_any_text_are_read(tmp_path, kind, values):
    table = pyarrow.table({"body": pyarrow.array(values, type=kind), "other": [1, 2, 3, 4]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    found, _ = read(tmp_path / "a.parquet", text_field="body")
    places = [f"a.parquet row {number}" for number in range(4)]
    empty = [Skipped("empty", place) for place in places[1:3]]
    assert found == [Document("a", places[0]), *empty, Document("b", places[3])]


def test_a_file_that_changed_since_it_was_found_is_noticed(tmp_path):
    path = write_rows(tmp_path / "a.jsonl")
    (source,) = find_sources([str(path)])
    (piece,) = plan_pieces(source, piece_bytes=1 << 30)
    reading = read_piece(piece, ReadOptions())
    next(reading)
    with path.open("ab") as file:
        file.write(b'{"text": "late"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl changed while the job ran: put the old file"):
        list(reading)
    with pytest.raises(InputError, match=r"a\.jsonl changed while the job ran"):
        next(read_piece(piece, ReadOptions()))
