"""Parquet: row groups as pieces, and of them only the columns that are needed. Knows pyarrow."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from data_tools.errors import InputError
from data_tools.reading.streams import open_file
from data_tools.reading.values import MIB, Document, InputFile, Piece, ReadOptions, Skipped, refuse

_BATCH_ROWS = 1024
_BATCH_BYTES = 8 * MIB


def plan_row_groups(file: InputFile, piece_bytes: int) -> Iterator[Piece]:
    """Cuts a file into runs of row groups of about `piece_bytes` on disk.

    Raises:
        InputError: It is not a whole Parquet file.
    """
    with _open(file) as parquet:
        groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
        sizes = [group.total_byte_size for group in groups]
    share = file.bytes / max(1, sum(sizes))
    start = unpacked = 0
    for number, size in enumerate(sizes, 1):
        unpacked += size
        if unpacked * share >= piece_bytes or number == len(sizes):
            yield Piece(file, start, number, int(unpacked * share))
            start, unpacked = number, 0


def text_bytes(file: InputFile, options: ReadOptions) -> int:
    """Says about how many bytes of text a file holds, from its footer alone."""
    with _open(file) as parquet:
        return sum(
            _group_bytes(parquet.metadata.row_group(i), options)
            for i in range(parquet.num_row_groups)
        )


def _group_bytes(group: Any, options: ReadOptions) -> int:
    columns = (group.column(i) for i in range(group.num_columns))
    sizes = (
        it.total_uncompressed_size for it in columns if it.path_in_schema == options.text_field
    )
    return int(sum(sizes))


def read_row_groups(piece: Piece, options: ReadOptions) -> Iterator[Document | Skipped]:
    """Reads the documents of some row groups, a few megabytes at a time."""
    with _open(piece.file) as parquet:
        columns = _columns(piece.file, parquet, options)
        stop = parquet.num_row_groups if piece.stop is None else piece.stop
        rows = (parquet.metadata.row_group(i).num_rows for i in range(piece.start))
        number = sum(rows)
        groups = list(range(piece.start, stop))
        size = _batch_rows([parquet.metadata.row_group(i) for i in groups], options)
        for batch in parquet.iter_batches(size, row_groups=groups, columns=columns):
            texts = _contents(batch.column(options.text_field))
            ids = batch.column(options.id_field).to_pylist() if options.id_field else []
            for row, content in enumerate(texts):
                place = f"{piece.file.name} row {number + row}"
                yield _document(content, ids[row] if ids else None, place, options)
            number += len(texts)


@contextmanager
def _open(file: InputFile) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    with open_file(file) as stream:
        try:
            # Without buffering ahead, a row group larger than memory is still read page by page.
            with pyarrow.parquet.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20) as it:
                yield it
        except (pyarrow.ArrowException, OSError, EOFError) as error:
            why = str(error).splitlines()[0].rstrip(".")
            raise InputError(
                f"{file.path} is no whole Parquet file ({why}): fetch it again, or exclude it"
            ) from error


def _batch_rows(groups: list[Any], options: ReadOptions) -> int:
    """So few rows that long documents do not fill the memory."""
    means = (_group_bytes(it, options) // max(1, int(it.num_rows)) for it in groups)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, *means, 1)))


def _columns(file: InputFile, parquet: Any, options: ReadOptions) -> list[str]:
    import pyarrow

    schema = parquet.schema_arrow
    wanted = [options.text_field, *([options.id_field] if options.id_field else [])]
    for name in wanted:
        if name not in schema.names:
            there = ", ".join(f"'{column}'" for column in schema.names)
            option = options.spell("text_field" if name == options.text_field else "id_field")
            raise InputError(
                f"{file.path} has no column '{name}' (its columns: {there}): choose {option}"
            )
    kind = schema.field(options.text_field).type
    if not _is_text(kind.value_type if pyarrow.types.is_dictionary(kind) else kind):
        name = options.text_field
        option = options.spell("text_field")
        raise InputError(f"{file.path}: column '{name}' holds {kind}, not text: choose {option}")
    return wanted


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    tests = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    return any(test(kind) for test in tests)


def _contents(column: Any) -> list[bytes | None]:
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    contents: list[bytes | None] = column.cast(pyarrow.large_binary()).to_pylist()
    return contents


def _document(
    content: bytes | None, identity: Any, place: str, options: ReadOptions
) -> Document | Skipped:
    if not content:
        return Skipped("empty", place)
    if len(content) > options.max_document_bytes:
        message = f"{place} is {options.too_long}"
        return refuse(options, "too long", place=place, message=message)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return refuse(options, "not UTF-8", place=place, message=f"{place} is not UTF-8")
    return Document(text, place, None if identity is None else str(identity))
