"""Reads Parquet files with pyarrow: a piece is some row groups; only needed columns are read."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from data_tools.errors import InputError
from data_tools.reading.byte_streams import check_not_compressed, open_file
from data_tools.reading.documents import Document, InputFile, Piece, ReadOptions, Skipped
from data_tools.reading.text_column import find_fault, read_rows, rows_per_batch, wanted_columns


def plan_row_groups(file: InputFile, piece_bytes: int) -> Iterator[Piece]:
    """Cuts a file into pieces of consecutive row groups, of about `piece_bytes` on disk.

    Raises:
        InputError: The file is incomplete or damaged.
    """
    with open_parquet(file) as parquet:
        groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
        sizes = [group.total_byte_size for group in groups]
    share = file.bytes / max(1, sum(sizes))
    start = uncompressed = 0
    for number, size in enumerate(sizes, 1):
        uncompressed += size
        if uncompressed * share >= piece_bytes or number == len(sizes):
            yield Piece(file, start, number, int(uncompressed * share))
            start, uncompressed = number, 0


def text_bytes(file: InputFile, options: ReadOptions) -> int:
    """Estimates the bytes of text in a file from its footer."""
    with open_parquet(file) as parquet:
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
    with open_parquet(piece.file) as parquet:
        fault = find_fault(piece.file, parquet.schema_arrow, options)
        stop = parquet.num_row_groups if piece.stop is None else piece.stop
        name, numbers = piece.file.name, range(piece.start, stop)
        first = sum(parquet.metadata.row_group(i).num_rows for i in range(piece.start))
        if fault:
            rows = sum(parquet.metadata.row_group(i).num_rows for i in numbers)
            places = (f"{name} row {row}" for row in range(first, first + rows))
            yield from (fault.skip_row(place, options) for place in places)
            return
        size = _batch_rows([parquet.metadata.row_group(i) for i in numbers], options)
        columns = wanted_columns(options)
        for batch in parquet.iter_batches(size, row_groups=list(numbers), columns=columns):
            yield from read_rows(batch, options, partial(_place, name, first))
            first += len(batch)


def _place(name: str, first: int, row: int) -> str:
    return f"{name} row {first + row}"


@contextmanager
def open_parquet(file: InputFile) -> Iterator[Any]:
    """Opens a file as a `pyarrow.parquet.ParquetFile`.

    Raises:
        InputError: The file is compressed, incomplete or damaged.
    """
    import pyarrow
    import pyarrow.parquet

    check_not_compressed(file)
    with open_file(file) as stream:
        try:
            # Without pre-buffering, a row group larger than memory can be read page by page.
            with pyarrow.parquet.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20) as it:
                yield it
        except (pyarrow.ArrowException, OSError, EOFError) as error:
            why = str(error).splitlines()[0].rstrip(".")
            raise InputError(
                f"{file.path} is not a complete Parquet file ({why}): fetch it again, or exclude it"
            ) from error


def _batch_rows(groups: list[Any], options: ReadOptions) -> int:
    means = (_group_bytes(it, options) // max(1, int(it.num_rows)) for it in groups)
    return rows_per_batch(max(means, default=0))
