"""Reads text files: one document per file, in strict UTF-8."""

from collections.abc import Iterator

from data_tools.reading.byte_streams import open_decompressed
from data_tools.reading.documents import Document, Piece, ReadOptions, Skipped, refuse
from data_tools.reading.file_formats import HEAD_BYTES, wrong_content


def read_text_file(piece: Piece, options: ReadOptions) -> Iterator[Document | Skipped]:
    """Reads one document, unchanged except that a byte order mark at its start is removed."""
    place, limit = piece.file.name, options.max_document_bytes
    with open_decompressed(piece.file) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        message = f"{piece.file.path} is {options.too_long}"
        yield refuse(options, "too long", place=place, message=message)
        return
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        wrong = wrong_content(content[:HEAD_BYTES])
        yield Skipped(f"not UTF-8 but {wrong}" if wrong else "not UTF-8", place)
        return
    yield Document(text, place) if text else Skipped("empty", place)
