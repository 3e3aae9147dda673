"""Cuts files into pieces that can be read separately, and reads a piece by its format."""

from collections.abc import Iterator

from data_tools.reading.arrow_files import plan_batches, read_batches
from data_tools.reading.byte_streams import check_unchanged, is_command
from data_tools.reading.documents import Document, InputFile, Piece, ReadOptions, Skipped
from data_tools.reading.json_lines import is_cut_by_lines, read_json_lines
from data_tools.reading.parquet_files import plan_row_groups, read_row_groups
from data_tools.reading.plain_text import read_text_file
from data_tools.reading.text_sources import TextSource
from data_tools.reading.webdataset_tars import read_tar


def plan_pieces(source: TextSource, *, piece_bytes: int) -> list[Piece]:
    """Cuts the files of a source, in order, into pieces of about `piece_bytes`.

    JSON Lines are cut into ranges of bytes, Parquet files into row groups, Arrow files into record
    batches; compressed and other files are one piece.

    Raises:
        InputError: A large Parquet or Arrow file cannot be read.
    """
    return [piece for file in source.files for piece in _cut(file, piece_bytes)]


def read_piece(piece: Piece, options: ReadOptions) -> Iterator[Document | Skipped]:
    """Reads the documents of a piece; each document belongs to exactly one piece.

    Raises:
        InputError: The file is damaged or has changed since it was found, or a document is invalid
            and `options.on_invalid` is `stop`.
    """
    check_unchanged(piece.file)
    match piece.file.kind:
        case "json lines":
            yield from read_json_lines(piece, options)
        case "parquet":
            yield from read_row_groups(piece, options)
        case "arrow":
            yield from read_batches(piece, options)
        case "tar":
            yield from read_tar(piece, options)
        case "text":
            yield from read_text_file(piece, options)
    check_unchanged(piece.file)


def _cut(file: InputFile, piece_bytes: int) -> Iterator[Piece]:
    if is_command(file.path):  # Its size is unknown, so each command gets its own task.
        yield Piece(file, 0, None, piece_bytes)
    elif file.compressed or file.kind in ("text", "tar") or file.bytes <= piece_bytes:
        yield Piece(file, 0, None, file.bytes)
    elif file.kind == "parquet":
        yield from plan_row_groups(file, piece_bytes)
    elif file.kind == "arrow":
        yield from plan_batches(file, piece_bytes)
    elif not is_cut_by_lines(file):
        yield Piece(file, 0, None, file.bytes)
    else:
        for start in range(0, file.bytes, piece_bytes):
            stop = min(file.bytes, start + piece_bytes)
            yield Piece(file, start, stop, stop - start)
