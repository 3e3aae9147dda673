"""Finds the files that hold records, and reads each by its format."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from data_tools.errors import InputError
from data_tools.reading.arrow_files import open_arrow
from data_tools.reading.byte_streams import check_unchanged, is_command, is_url, size_and_stamp
from data_tools.reading.delimited_text import read_delimited
from data_tools.reading.detect_format import detect_format
from data_tools.reading.documents import InputFile, Skipped
from data_tools.reading.expand_patterns import expand_patterns
from data_tools.reading.file_formats import FileFormat, compression_by_name
from data_tools.reading.json_objects import read_objects
from data_tools.reading.parquet_files import open_parquet
from data_tools.reading.records import Record, RecordOptions, missing_column

RecordKind = Literal["csv", "tsv", "json lines", "parquet", "arrow"]

_KINDS_READ = "CSV (.csv), TSV (.tsv), JSON Lines, Parquet and Arrow"
_TABLE_ENDINGS: dict[str, RecordKind] = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv"}
_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class RecordFile:
    """One file of records, in the state in which it was found."""

    file: InputFile
    kind: RecordKind


def find_record_files(patterns: Sequence[str]) -> list[RecordFile]:
    """Finds files in the order of `patterns`, those of a glob sorted by path, each once.

    Args:
        patterns: Files, globs, URLs of files, and braces such as `part-{00..09}.csv`.

    Raises:
        InputError: A pattern matches nothing, or names a folder or a file of another kind.
    """
    paths = [path for pattern in expand_patterns(patterns) for path in _paths_of(pattern)]
    unique = list(dict.fromkeys(path if is_url(path) else os.path.realpath(path) for path in paths))
    if not unique:
        raise InputError(f"no file in {', '.join(patterns)}: check its spelling")
    shown = {path if is_url(path) else os.path.realpath(path): path for path in reversed(paths)}
    return [_record_file(shown[key]) for key in unique]


def read_records(found: RecordFile, options: RecordOptions) -> Iterator[Record | Skipped]:
    """Reads the records of a file in order.

    Raises:
        InputError: The file is damaged, has changed since it was found, or lacks a column; or a
            row is invalid and `options.on_invalid` is `stop`.
    """
    check_unchanged(found.file)
    match found.kind:
        case "csv":
            yield from read_delimited(found.file, options, delimiter=",")
        case "tsv":
            yield from read_delimited(found.file, options, delimiter="\t")
        case "json lines":
            yield from read_objects(found.file, options)
        case "parquet":
            yield from _read_parquet(found.file, options)
        case "arrow":
            yield from _read_arrow(found.file, options)
    check_unchanged(found.file)


def _paths_of(pattern: str) -> list[str]:
    if is_command(pattern):
        raise InputError(f"{pattern}: the output of a command is not read here: give files")
    if is_url(pattern):
        return [pattern]
    if Path(pattern).is_dir():
        raise InputError(f"{pattern} is a folder: give files, or a quoted glob such as '*.csv'")
    if not Path(pattern).exists() and glob.has_magic(pattern):
        names = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - a path, not a folder
        files = [name for name in names if Path(name).is_file()]
        if not files:
            raise InputError(f"{pattern} matches no file: check its spelling")
        return files
    if not Path(pattern).is_file():
        raise InputError(f"{pattern} is not a file that exists: check its spelling")
    return [pattern]


def _record_file(path: str) -> RecordFile:
    name = PurePosixPath(path).name
    try:
        if is_url(path):
            size, stamp = size_and_stamp(path)
        else:
            status = Path(path).stat()
            size, stamp = status.st_size, str(status.st_mtime_ns)
    except FileNotFoundError as error:
        raise InputError(f"{path} is not a file that exists: check its spelling") from error
    compression = compression_by_name(name)
    inner = PurePosixPath(name.lower()).with_suffix("").suffix if compression else ""
    if kind := _TABLE_ENDINGS.get(inner or PurePosixPath(name.lower()).suffix):
        return RecordFile(InputFile(path, name, size, stamp, FileFormat("text", compression)), kind)
    seen = detect_format(InputFile(path, name, size, stamp))
    match seen.file.kind:
        case "json lines" | "parquet" | "arrow" as kind if not seen.unsupported:
            return RecordFile(seen.file, kind)
    raise InputError(f"{path} is of a kind that is not read here: give {_KINDS_READ}")


def _read_parquet(file: InputFile, options: RecordOptions) -> Iterator[Record]:
    with open_parquet(file) as parquet:
        _check_schema(file, parquet.schema_arrow, options)
        columns = list(options.columns)
        yield from _rows(file, parquet.iter_batches(_BATCH_ROWS, columns=columns), options)


def _read_arrow(file: InputFile, options: RecordOptions) -> Iterator[Record]:
    with open_arrow(file) as batches:
        _check_schema(file, batches.schema, options)
        found = (batch for _, batch in batches.between(0, None))
        yield from _rows(file, found, options)


def _check_schema(file: InputFile, schema: Any, options: RecordOptions) -> None:
    if fault := missing_column(schema.names, options):
        raise InputError(f"{file.path} {fault}")


def _rows(file: InputFile, batches: Iterator[Any], options: RecordOptions) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for start in range(0, len(batch), _BATCH_ROWS):
            part = batch.slice(start, _BATCH_ROWS)
            columns = [part.column(name).to_pylist() for name in options.columns]
            for values in zip(*columns, strict=True):
                named = dict(zip(options.columns, values, strict=True))
                yield Record(named, file.path, "row", number)
                number += 1
