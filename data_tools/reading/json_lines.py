"""Reads JSON Lines: one object per line, with the text in one field.

Any range of bytes can be read separately. A JSON file that is one array, or has objects over
several lines, is read completely.
"""

import json
from collections.abc import Iterator
from typing import IO

from data_tools.errors import InputError
from data_tools.reading.byte_streams import is_url, open_decompressed, open_file, read_head
from data_tools.reading.documents import Document, InputFile, Piece, ReadOptions, Skipped, refuse
from data_tools.reading.file_formats import HEAD_BYTES, holds_json_values, wrong_content
from data_tools.reading.json_record import JsonRecord
from data_tools.reading.json_values import read_json_values

_BLOCK_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_JSON = json.JSONDecoder()


def read_json_lines(piece: Piece, options: ReadOptions) -> Iterator[Document | Skipped]:
    """Reads the documents of the lines that begin in a piece, or of a file that is one array."""
    with open_decompressed(piece.file) as stream:
        head = stream.peek(HEAD_BYTES)[:HEAD_BYTES] if piece.start == 0 else b""
        if wrong := wrong_content(head):
            yield _not_json(piece.file, wrong, options)
        elif piece.stop is None and holds_json_values(head, piece.file.name):
            yield from read_json_values(stream, piece.file, options)
        else:
            yield from _read_lines(stream, piece, options)


def is_cut_by_lines(file: InputFile) -> bool:
    """Whether a JSON file is JSON Lines, so that parts of it can be read separately."""
    return not file.compressed and not holds_json_values(read_head(file, HEAD_BYTES), file.name)


def _not_json(file: InputFile, wrong: str, options: ReadOptions) -> Skipped:
    message = f"{file.path} is {wrong}, not JSON in UTF-8 as its name says"
    return refuse(options, f"not JSON but {wrong}", place=file.name, message=message)


def _read_lines(
    stream: IO[bytes], piece: Piece, options: ReadOptions
) -> Iterator[Document | Skipped]:
    """Reads the documents of the lines that begin in a piece; skips blank lines."""
    limit, name = options.max_document_bytes, piece.file.name
    offset, number = _first_line(stream, piece.start), 0
    while piece.stop is None or offset < piece.stop:
        line = stream.readline(limit + 1)
        if not line:
            return
        number += 1
        if text := _text_at_once(line, limit, options):
            place = f"{name} byte {offset}" if piece.start else f"{name} line {number}"
            yield Document(text, place)
        elif len(line) > limit and not line.endswith(b"\n"):
            yield _Line(piece, options, offset, number).too_long()
            offset += _skip_line(stream)
        elif found := _Line(piece, options, offset, number).parse(line):
            yield found
        offset += len(line)


def _text_at_once(line: bytes, limit: int, options: ReadOptions) -> str | None:
    """Reads a simple valid line quickly; None if the line needs the slower `_Line`."""
    if options.id_field or len(line) > limit or b"\\ud" in line or b"\\uD" in line:
        return None
    try:
        text = _JSON.decode(line.decode("utf-8"))[options.text_field]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return text if isinstance(text, str) else None


class _Line:
    """One line and its place; the number of the line is counted from 1 within the piece."""

    __slots__ = ("_number", "_offset", "_options", "_piece")

    def __init__(self, piece: Piece, options: ReadOptions, offset: int, number: int) -> None:
        self._piece = piece
        self._options = options
        self._offset = offset
        self._number = number

    def parse(self, line: bytes) -> Document | Skipped | None:
        if self._offset == 0:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        return self._record().parse(line) if line.strip() else None

    def too_long(self) -> Skipped:
        return self._record().too_long()

    def _record(self) -> JsonRecord:
        name = self._piece.file.name
        start = self._piece.start
        place = f"{name} byte {self._offset}" if start else f"{name} line {self._number}"
        return JsonRecord(self._options, place=place, exact=self._exact_place)

    def _exact_place(self) -> str:
        file = self._piece.file
        if self._piece.start and is_url(file.path):  # Counting would fetch all earlier lines.
            return f"{file.path} byte {self._offset}"
        before = _count_lines(self._piece) if self._piece.start else 0
        return f"{file.path} line {before + self._number} (byte {self._offset})"


def _first_line(stream: IO[bytes], start: int) -> int:
    """Goes to the first line that begins at or after `start`."""
    if start == 0:
        return 0
    stream.seek(start - 1)
    return start - 1 + _skip_line(stream)


def _skip_line(stream: IO[bytes]) -> int:
    """Reads to the end of a line without storing it; returns the number of bytes."""
    skipped = 0
    while part := stream.readline(_BLOCK_BYTES):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _count_lines(piece: Piece) -> int:
    """Counts the lines that begin before a piece."""
    lines, left = 0, piece.start - 1
    with open_file(piece.file) as stream:
        while left > 0:
            block = stream.read(min(left, _BLOCK_BYTES))
            if not block:
                raise InputError(f"{piece.file.path} became shorter while it was read")
            lines += block.count(b"\n")
            left -= len(block)
    return lines + 1
