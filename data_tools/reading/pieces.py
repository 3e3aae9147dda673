"""Cuts files into pieces that can be read apart, and reads one with the reader of its kind."""

from collections.abc import Iterator

from data_tools.reading.json_lines import read_json_lines
from data_tools.reading.parquet import plan_row_groups, read_row_groups
from data_tools.reading.plain_text import read_text_file
from data_tools.reading.sources import TextSource
from data_tools.reading.streams import check_unchanged
from data_tools.reading.values import Document, InputFile, Piece, ReadOptions, Skipped


def plan_pieces(source: TextSource, *, piece_bytes: int) -> list[Piece]:
    """Cuts the files of a source, in order: plain JSON Lines into ranges of `piece_bytes`, Parquet
    into runs of row groups; other files stay whole.

    Raises:
        InputError: A large Parquet file cannot be read.
    """
    return [piece for file in source.files for piece in _cut(file, piece_bytes)]


def read_piece(piece: Piece, options: ReadOptions) -> Iterator[Document | Skipped]:
    """Reads the documents of a piece; none is read by two pieces, or by none.

    Raises:
        InputError: The file is damaged or has changed since it was found, or holds what
            `options.on_invalid` says to stop at.
    """
    check_unchanged(piece.file)
    match piece.file.kind:
        case "json lines":
            yield from read_json_lines(piece, options)
        case "parquet":
            yield from read_row_groups(piece, options)
        case "text":
            yield from read_text_file(piece, options)
    check_unchanged(piece.file)


def _cut(file: InputFile, piece_bytes: int) -> Iterator[Piece]:
    if file.compressed or file.kind == "text" or file.bytes <= piece_bytes:
        yield Piece(file, 0, None, file.bytes)
    elif file.kind == "parquet":
        yield from plan_row_groups(file, piece_bytes)
    else:
        for start in range(0, file.bytes, piece_bytes):
            stop = min(file.bytes, start + piece_bytes)
            yield Piece(file, start, stop, stop - start)
