"""Reads CSV and TSV with Python's `csv`, and names the line of every fault."""

import csv
from collections.abc import Iterator
from typing import IO, Literal

from data_tools.errors import InputError
from data_tools.reading.byte_streams import open_decompressed
from data_tools.reading.documents import InputFile, Skipped
from data_tools.reading.file_formats import HEAD_BYTES, wrong_content
from data_tools.reading.records import Record, RecordOptions, missing_column, refuse_record

Delimiter = Literal[",", "\t"]

_NAMES: dict[str, str] = {",": "CSV", "\t": "TSV"}
_OTHER_DELIMITERS = {",": ";\t|", "\t": ",;|"}


def read_delimited(
    file: InputFile, options: RecordOptions, *, delimiter: Delimiter
) -> Iterator[Record | Skipped]:
    """Reads the rows after the header; skips blank lines.

    In CSV double quotes enclose fields (RFC 4180). In TSV they are text, as in the files of GLUE;
    a TSV field that begins and ends with one is refused, unless `options.quotes` is given.

    Raises:
        InputError: The file is not UTF-8 or not valid CSV, or lacks a column.
    """
    with open_decompressed(file) as stream:
        if wrong := wrong_content(stream.peek(HEAD_BYTES)[:HEAD_BYTES]):
            raise InputError(
                f"{file.path} is {wrong}, not {_NAMES[delimiter]} in UTF-8 as its name says: "
                "convert it"
            )
        yield from _Table(file, options, delimiter).read(stream)


class _Table:
    def __init__(self, file: InputFile, options: RecordOptions, delimiter: Delimiter) -> None:
        self._file, self._options, self._delimiter = file, options, delimiter
        self._quotes = delimiter == "," if options.quotes is None else options.quotes
        self._refuses_quotes = options.quotes is None and not self._quotes
        self._line = 0
        """The number of the last line that was read."""

    def read(self, stream: IO[bytes]) -> Iterator[Record | Skipped]:
        csv.field_size_limit(self._options.max_record_bytes)
        rows = csv.reader(
            self._lines(stream),
            delimiter=self._delimiter,
            quoting=csv.QUOTE_MINIMAL if self._quotes else csv.QUOTE_NONE,
            strict=True,
        )
        header: list[str] | None = None
        while True:
            first = self._line + 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                raise self._fault(first, error) from error
            if row is None:
                break
            if header is None:
                header = self._check_header(row)
            elif row:
                yield self._record(row, header, first)
        if header is None:
            raise InputError(f"{self._file.path} is empty: its first line must name the columns")

    def _lines(self, stream: IO[bytes]) -> Iterator[str]:
        limit = self._options.max_record_bytes
        for self._line, line in enumerate(iter(lambda: stream.readline(limit + 1), b""), 1):
            if len(line) > limit:
                raise InputError(f"{self._place()} is longer than {limit >> 20} MiB: correct it")
            try:
                yield line.decode("utf-8-sig" if self._line == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                raise InputError(
                    f"{self._place()} is not UTF-8 (byte 0x{byte:02x} at {error.start + 1}): "
                    "convert the file to UTF-8"
                ) from error

    def _check_header(self, header: list[str]) -> list[str]:
        if fault := missing_column(header, self._options):
            others = _OTHER_DELIMITERS[self._delimiter]
            found = [it for it in others if len(header) == 1 and it in header[0]]
            hint = f"; its columns seem to be separated by {found[0]!r}" if found else ""
            raise InputError(f"{self._file.path} {fault}{hint}")
        return header

    def _record(self, row: list[str], header: list[str], first: int) -> Record | Skipped:
        place = self._place(first)
        if len(row) != len(header):
            fault = f"has {len(row)} fields, and the header has {len(header)}"
            return refuse_record(self._options, "wrong number of fields", place=place, fault=fault)
        values = dict(zip(header, row, strict=True))
        wanted = {column: values[column] for column in self._options.columns}
        for column, value in wanted.items():
            if self._refuses_quotes and len(value) > 1 and value[0] == value[-1] == '"':
                raise InputError(
                    f"{place}: '{column}' begins and ends with a double quote: give --quotes if "
                    "quotes enclose fields in this file, --no-quotes if they are text"
                )
        return Record(wanted, self._file.path, "line", first)

    def _fault(self, first: int, error: csv.Error) -> InputError:
        return InputError(
            f"{self._place(first)} is not valid {_NAMES[self._delimiter]} ({error}): correct it, "
            "or give --no-quotes if double quotes are text in this file"
        )

    def _place(self, line: int | None = None) -> str:
        return f"{self._file.path} line {self._line if line is None else line}"
