"""A compressed file gives all its bytes, or a one-line error."""

import bz2
import gzip
import lzma

import pytest
import zstandard

from data_tools.errors import InputError
from tests.data_tools.test_reading_records import LINES, ROWS, read

PACKERS = {
    "gz": gzip.compress,
    "zst": zstandard.compress,
    "xz": lzma.compress,
    "lzma": lambda content: lzma.compress(content, format=lzma.FORMAT_ALONE),
    "bz2": bz2.compress,
}


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("rest", [b'{"text": "lost"}\n', b"x", b"\0\0\0\0" + LINES])
def test_bytes_after_a_compressed_stream_are_not_ignored(tmp_path, ending, rest):
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(PACKERS[ending](LINES) + rest)
    with pytest.raises(InputError, match=rf"a\.jsonl\.{ending} is truncated or damaged") as error:
        read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", PACKERS)
def test_concatenated_streams_are_read(tmp_path, ending):
    path, pack = tmp_path / f"a.jsonl.{ending}", PACKERS[ending]
    path.write_bytes(pack(LINES[:7000]) + pack(b"") + pack(LINES[7000:]))
    assert [it.text for it in read(path)[0]] == [row["text"] for row in ROWS]


@pytest.mark.parametrize(("ending", "zeros"), [("xz", 4), ("xz", 131_072), ("bz2", 512)])
def test_trailing_zeros_are_allowed(tmp_path, ending, zeros):
    path, pack = tmp_path / f"a.jsonl.{ending}", PACKERS[ending]
    path.write_bytes(pack(LINES) + bytes(zeros) + pack(LINES) + bytes(zeros))
    assert [it.text for it in read(path)[0]] == [row["text"] for row in ROWS] * 2


def test_trailing_zeros_that_xz_does_not_allow_are_an_error(tmp_path):
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(LINES) + bytes(3))
    with pytest.raises(InputError, match="3 zero bytes after a compressed"):
        read(tmp_path / "a.jsonl.xz")
