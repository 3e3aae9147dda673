"""Writes and reads cleaned documents: JSON Lines, compressed with zstandard."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from data_tools.files import new_file
from data_tools.reading.documents import Document

PART_PATTERN = "part-{:06d}.jsonl.zst"
_LEVEL = 3
_BLOCK_BYTES = 1 << 20


class LineWriter(Protocol):
    """Writes complete lines."""

    def write(self, line: bytes, /) -> object:
        """Writes a line with its newline."""
        ...


def part_name(number: int) -> str:
    """Names the part that a task writes."""
    return PART_PATTERN.format(number)


def render_line(document: Document, text: str) -> bytes:
    """Renders the line of a document: its cleaned text, its id if it has one, and its source."""
    name = {} if document.id is None else {"id": document.id}
    line = json.dumps({"text": text, **name, "source": document.place}, ensure_ascii=False)
    # UTF-8 cannot encode a lone surrogate, but JSON can escape it with a backslash.
    return line.encode("utf-8", "backslashreplace") + b"\n"


@contextmanager
def write_lines(path: Path) -> Iterator[LineWriter]:
    """Opens a file for lines; it gets its final name when all lines are on the disk."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    with new_file(path) as file, compressor.stream_writer(file, closefd=False) as lines:
        yield lines


def read_lines(path: Path) -> Iterator[bytes]:
    """Reads the lines that `write_lines` wrote."""
    import zstandard

    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        rest = b""
        while block := stream.read(_BLOCK_BYTES):
            *lines, rest = (rest + block).split(b"\n")
            yield from (line + b"\n" for line in lines)
