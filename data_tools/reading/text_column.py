"""Reads the text column of an Arrow table, of any type, for Parquet and Arrow files."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from data_tools.errors import InputError
from data_tools.reading.documents import MIB, Document, InputFile, ReadOptions, Skipped, refuse

_BATCH_ROWS = 1024
_BATCH_BYTES = 8 * MIB


@dataclass(frozen=True, slots=True)
class Fault:
    """The reason why no row of a file has text."""

    reason: str
    message: str

    def skip_row(self, place: str, options: ReadOptions) -> Skipped:
        """Skips a row.

        Raises:
            InputError: `options.on_invalid` is `stop`.
        """
        return refuse(options, self.reason, place=place, message=self.message)


def find_fault(file: InputFile, schema: Any, options: ReadOptions) -> Fault | None:
    """Checks that the text column exists and contains text.

    Raises:
        InputError: There is no column for the documents' ids.
    """
    if options.id_field and options.id_field not in schema.names:
        raise InputError(_no_column(file, schema, options.id_field, options.spell("id_field")))
    name, option = options.text_field, options.spell("text_field")
    if name not in schema.names:
        return Fault("no text field", _no_column(file, schema, name, option))
    if len(schema.get_all_field_indices(name)) > 1:
        message = f"{file.path} has several columns '{name}': rename one, or choose {option}"
        return Fault("no text field", message)
    kind = schema.field(name).type
    if str(kind) == "null":
        return Fault("null column", f"{file.path}: column '{name}' is null in every row")
    if not _is_text(kind):
        message = f"{file.path}: column '{name}' has type {kind}, not text: choose {option}"
        return Fault("not a string", message)
    return None


def wanted_columns(options: ReadOptions) -> list[str]:
    """The names of the columns to read."""
    return [options.text_field, *([options.id_field] if options.id_field else [])]


def rows_per_batch(mean_bytes: int) -> int:
    """How many rows of this mean size to read at once, so that long documents fit into memory."""
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, mean_bytes)))


def read_rows(
    batch: Any, options: ReadOptions, place: Callable[[int], str]
) -> Iterator[Document | Skipped]:
    """Reads the documents of a record batch.

    Args:
        batch: A record batch with the wanted columns.
        options: The names of these columns.
        place: Returns the place of a row from its number in the batch.
    """
    column = _decoded(batch.column(options.text_field))
    ids = batch.column(options.id_field) if options.id_field else None
    rows = rows_per_batch(column.nbytes // max(1, len(column)))
    for start in range(0, len(column), rows):
        texts = column.slice(start, rows).to_pylist()
        names = ids.slice(start, rows).to_pylist() if ids is not None else [None] * len(texts)
        for row, (content, name) in enumerate(zip(texts, names, strict=True), start):
            yield _document(content, name, place(row), options)


def _no_column(file: InputFile, schema: Any, name: str, option: str) -> str:
    there = ", ".join(f"'{column}'" for column in schema.names)
    return f"{file.path} has no column '{name}' (its columns: {there}): choose {option}"


def _is_text(kind: Any) -> bool:
    import pyarrow
    from pyarrow import types

    if isinstance(kind, pyarrow.BaseExtensionType):
        return _is_text(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _is_text(kind.value_type)
    tests = (
        types.is_string,
        types.is_large_string,
        types.is_string_view,
        types.is_binary,
        types.is_large_binary,
        types.is_binary_view,
    )
    return any(test(kind) for test in tests)


def _decoded(column: Any) -> Any:
    """Converts text of any type to an array of bytes, one value per row."""
    import pyarrow
    from pyarrow import compute, types

    kind = column.type
    if isinstance(kind, pyarrow.BaseExtensionType):
        return _decoded(column.storage)
    # pyarrow has no function that decodes views inside a dictionary or runs.
    if types.is_dictionary(kind):
        values = _decoded(column.dictionary)
        return pyarrow.DictionaryArray.from_arrays(column.indices, values).dictionary_decode()
    if types.is_run_end_encoded(kind):
        runs = pyarrow.RunEndEncodedArray.from_arrays(column.run_ends, _decoded(column.values))
        return compute.run_end_decode(runs)
    return column.cast(pyarrow.large_binary())


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
