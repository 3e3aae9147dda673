"""JSON Lines: one object a line, the text in one field; any range of bytes is read by itself."""

import json
from collections.abc import Iterator
from typing import IO, Any

from data_tools.errors import InputError
from data_tools.reading.streams import is_url, open_file, open_unpacked
from data_tools.reading.values import Document, Piece, ReadOptions, Skipped, refuse

_BLOCK_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NAMED_FIELDS = 12
_JSON = json.JSONDecoder()


def read_json_lines(piece: Piece, options: ReadOptions) -> Iterator[Document | Skipped]:
    """Reads the documents of the lines that begin in a piece; blank lines are passed over."""
    limit, name = options.max_document_bytes, piece.file.name
    with open_unpacked(piece.file) as stream:
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
                offset += _pass_line(stream)
            elif found := _Line(piece, options, offset, number).parse(line):
                yield found
            offset += len(line)


def _text_at_once(line: bytes, limit: int, options: ReadOptions) -> str | None:
    """The quick way, for a plain good line; None leaves it to be looked at with care."""
    if options.id_field or len(line) > limit or b"\\ud" in line or b"\\uD" in line:
        return None
    try:
        text = _JSON.decode(line.decode("utf-8"))[options.text_field]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return text if isinstance(text, str) else None


class _Line:
    """One line and where it is: the number counts from 1 within the piece."""

    __slots__ = ("_number", "_offset", "_options", "_piece")

    def __init__(self, piece: Piece, options: ReadOptions, offset: int, number: int) -> None:
        self._piece = piece
        self._options = options
        self._offset = offset
        self._number = number

    @property
    def place(self) -> str:
        if self._piece.start:
            return f"{self._piece.file.name} byte {self._offset}"
        return f"{self._piece.file.name} line {self._number}"

    def parse(self, line: bytes) -> Document | Skipped | None:
        if self._offset == 0:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if line.isspace() or not line:
            return None
        try:
            value = json.loads(line.decode("utf-8"))
        except json.JSONDecodeError as error:
            return self._invalid(f"{error.msg}, column {error.colno}")
        except UnicodeDecodeError as error:
            return self._invalid(f"byte 0x{line[error.start]:02x} is not UTF-8", error.start + 1)
        except (ValueError, RecursionError) as error:
            return self._invalid(str(error))
        if not isinstance(value, dict):
            kind = type(value).__name__
            return self._refuse("invalid JSON", f"holds a JSON {kind}, not an object")
        return self._document(value, may_have_surrogates=b"\\ud" in line or b"\\uD" in line)

    def too_long(self) -> Skipped:
        return self._refuse("too long", f"is {self._options.too_long}")

    def _document(
        self, value: dict[str, Any], *, may_have_surrogates: bool
    ) -> Document | Skipped | None:
        field = self._options.text_field
        text = value.get(field)
        if not text:
            if field in value and text in (None, ""):
                return Skipped("empty", self.place)
            if field not in value:
                return self._no_field(value)
        if not isinstance(text, str):
            kind = type(text).__name__
            return self._refuse("not a string", f"has a {kind} in field '{field}', not a string")
        if may_have_surrogates:
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                return self._invalid(f"half a surrogate pair, {text[error.start]!a}, in '{field}'")
        identity = value.get(self._options.id_field) if self._options.id_field else None
        return Document(text, self.place, None if identity is None else str(identity))

    def _invalid(self, what: str, column: int | None = None) -> Skipped:
        where = "" if column is None else f", column {column}"
        return self._refuse("invalid JSON", f"is not valid JSON ({what}{where})")

    def _no_field(self, value: dict[str, Any]) -> Skipped:
        names = [f"'{name}'" for name in value]
        more = ", …" if len(names) > _NAMED_FIELDS else ""
        there = ", ".join(names[:_NAMED_FIELDS]) + more if names else "none"
        field, option = self._options.text_field, self._options.spell("text_field")
        message = f"has no field '{field}' (its fields: {there}): choose {option}"
        return self._refuse("no text field", message)

    def _refuse(self, reason: str, message: str) -> Skipped:
        stop = self._options.on_invalid == "stop"
        where = self._exact_place() if stop else ""
        return refuse(self._options, reason, place=self.place, message=f"{where} {message}")

    def _exact_place(self) -> str:
        file = self._piece.file
        if self._piece.start and is_url(file.path):  # Counting would fetch all that is before.
            return f"{file.path} byte {self._offset}"
        before = _count_lines(self._piece) if self._piece.start else 0
        return f"{file.path} line {before + self._number} (byte {self._offset})"


def _first_line(stream: IO[bytes], start: int) -> int:
    """Goes to the first line that begins at or after `start`."""
    if start == 0:
        return 0
    stream.seek(start - 1)
    return start - 1 + _pass_line(stream)


def _pass_line(stream: IO[bytes]) -> int:
    """Reads to the end of a line without keeping it; returns the number of bytes."""
    passed = 0
    while part := stream.readline(_BLOCK_BYTES):
        passed += len(part)
        if part.endswith(b"\n"):
            break
    return passed


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
