"""Reads the objects of JSON Lines, or of a JSON array, as records."""

import json
from collections.abc import Iterator
from typing import IO, Any

from data_tools.errors import InputError
from data_tools.reading.byte_streams import open_decompressed
from data_tools.reading.documents import MIB, InputFile, ReadOptions, Skipped
from data_tools.reading.file_formats import HEAD_BYTES, holds_json_values, wrong_content
from data_tools.reading.json_values import JsonValues
from data_tools.reading.records import Record, RecordOptions, missing_column, refuse_record

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_objects(file: InputFile, options: RecordOptions) -> Iterator[Record | Skipped]:
    """Reads one object per line, or the objects of an array; skips blank lines.

    Raises:
        InputError: The file is not JSON, or a line is invalid and `options.on_invalid` is `stop`.
    """
    with open_decompressed(file) as stream:
        head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
        if wrong := wrong_content(head):
            raise InputError(
                f"{file.path} is {wrong}, not JSON in UTF-8 as its name says: convert it"
            )
        if holds_json_values(head, file.name):
            reading = ReadOptions(max_document_bytes=options.max_record_bytes)
            for number, value in enumerate(JsonValues(stream, file, reading), 1):
                yield _take(value, Record({}, file.path, "value", number), options)
        else:
            yield from _read_lines(stream, file, options)


def _read_lines(
    stream: IO[bytes], file: InputFile, options: RecordOptions
) -> Iterator[Record | Skipped]:
    limit = options.max_record_bytes
    for number, line in enumerate(iter(lambda: stream.readline(limit + 1), b""), 1):
        here = Record({}, file.path, "line", number)
        if len(line) > limit:
            raise InputError(f"{here.place} is longer than {limit / MIB:g} MiB: correct it")
        content = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
        if not content.strip():
            continue
        try:
            value = json.loads(content.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            fault = f"is not valid JSON ({error})"
            yield refuse_record(options, "invalid JSON", place=here.place, fault=fault)
        else:
            yield _take(value, here, options)


def _take(value: Any, here: Record, options: RecordOptions) -> Record | Skipped:
    if not isinstance(value, dict):
        fault = f"is a JSON {type(value).__name__}, not an object"
        return refuse_record(options, "invalid JSON", place=here.place, fault=fault)
    if missing := missing_column(value, options):
        return refuse_record(options, "missing field", place=here.place, fault=missing)
    wanted = {column: value[column] for column in options.columns}
    return Record(wanted, here.path, here.unit, here.number)
