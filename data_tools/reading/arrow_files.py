"""Reads Arrow files: IPC files and streams (Hugging Face `datasets`, Polars), Feather 1 and 2.

The record batches of an IPC file can be read separately, so such a file is cut into pieces; the
other kinds are not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from data_tools.errors import InputError
from data_tools.reading.byte_streams import check_not_compressed, is_url, open_file
from data_tools.reading.documents import Document, InputFile, Piece, ReadOptions, Skipped, refuse
from data_tools.reading.text_column import find_fault, read_rows

_FILE, _FEATHER_1 = b"ARROW1", b"FEA1"
_STREAM_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


@dataclass(frozen=True, slots=True)
class ArrowBatches:
    """The record batches of a file."""

    schema: Any
    numbers: range
    """The numbers of the batches; empty for a stream, where they are unknown."""
    stream: Any
    """The batches in order, if they can only be read in order."""
    get: Any
    """A function that reads a batch by its number; None for a stream."""

    def between(self, start: int, stop: int | None) -> Iterator[tuple[str, Any]]:
        """Yields batches, each with its name for the places of its rows."""
        if self.get is None:
            yield from (("", batch) for batch in self.stream)
            return
        for number in self.numbers[start:stop]:
            yield f"batch {number} ", self.get(number)


def plan_batches(file: InputFile, piece_bytes: int) -> Iterator[Piece]:
    """Cuts an IPC file into pieces of about `piece_bytes`; other kinds of files are one piece.

    Raises:
        InputError: The file is incomplete or damaged.
    """
    with open_arrow(file) as batches:
        count = len(batches.numbers)
    if count < 2:
        yield Piece(file, 0, None, file.bytes)
        return
    each = max(1, piece_bytes * count // file.bytes)
    for start in range(0, count, each):
        stop = min(count, start + each)
        yield Piece(file, start, stop, file.bytes * (stop - start) // count)


def arrow_text_bytes(file: InputFile, options: ReadOptions) -> int:
    """Estimates the bytes of text in a file."""
    with open_arrow(file) as batches:
        if find_fault(file, batches.schema, options):
            return 0
        found = (batch for _, batch in batches.between(0, None))
        return sum(int(batch.column(options.text_field).nbytes) for batch in found)


def read_batches(piece: Piece, options: ReadOptions) -> Iterator[Document | Skipped]:
    """Reads the documents of some record batches, one batch at a time."""
    name, first = piece.file.name, 0
    with open_arrow(piece.file) as batches:
        fault = find_fault(piece.file, batches.schema, options)
        for which, batch in batches.between(piece.start, piece.stop):
            place = partial(_place, name, which, 0 if which else first)
            if fault:
                yield from (fault.skip_row(place(row), options) for row in range(len(batch)))
            else:
                yield from read_rows(batch, options, place)
            first += len(batch)
    if _lacks_its_end(piece.file):
        message = f"{piece.file.path} is truncated: the end marker of an Arrow stream is missing"
        yield refuse(options, "stream without an end", place=name, message=message)


def _place(name: str, batch: str, first: int, row: int) -> str:
    return f"{name} {batch}row {first + row}"


@contextmanager
def open_arrow(file: InputFile) -> Iterator[ArrowBatches]:
    """Opens the record batches of a file.

    Raises:
        InputError: The file is compressed, incomplete or damaged.
    """
    import pyarrow

    check_not_compressed(file)
    try:
        with _open_bytes(file) as source:
            yield _read_schema(source)
    except (pyarrow.ArrowException, OSError, EOFError) as error:
        why = (str(error).splitlines() or ["empty"])[0].rstrip(".")
        raise InputError(
            f"{file.path} is not a complete Arrow file ({why}): fetch it again, or exclude it"
        ) from error


@contextmanager
def _open_bytes(file: InputFile) -> Iterator[Any]:
    import pyarrow

    if is_url(file.path) or not file.bytes:
        with open_file(file) as stream:
            yield stream
    else:
        # A batch may be as long as the file; with a memory map no copy is needed.
        with pyarrow.memory_map(file.path) as source:
            yield source


def _read_schema(source: Any) -> ArrowBatches:
    import pyarrow
    from pyarrow import feather, ipc

    head = source.read(len(_FILE))
    source.seek(0)
    if head.startswith(_FEATHER_1):
        table = feather.read_table(source)
        return ArrowBatches(table.schema, range(0), table.to_batches(), None)
    if head.startswith(_FILE):
        reader = ipc.open_file(source)
        return ArrowBatches(reader.schema, range(reader.num_record_batches), None, reader.get_batch)
    if not head:
        raise EOFError("it is empty")
    stream = ipc.open_stream(source)
    assert isinstance(stream, pyarrow.RecordBatchReader)
    return ArrowBatches(stream.schema, range(0), stream, None)


def _lacks_its_end(file: InputFile) -> bool:
    """Whether a stream was cut between two batches; its reader does not notice that."""
    with open_file(file) as stream:
        head = stream.read(len(_FILE))
        if head.startswith((_FILE, _FEATHER_1)):
            return False
        # Older writers omit the four bytes before the length of a message or the end marker.
        end = _STREAM_END if head.startswith(_STREAM_END[:4]) else _STREAM_END[4:]
        stream.seek(-len(end), 2)
        return stream.read() != end
