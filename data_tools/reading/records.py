"""Records: the named values of one row of a CSV, JSON Lines, Parquet or Arrow file."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from data_tools.errors import InputError
from data_tools.reading.documents import Skipped

_NAMED_COLUMNS = 12


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """Which columns to read, and what to do with invalid rows."""

    columns: Mapping[str, str]
    """The columns to read; for each, the option that named it, such as `--text`."""
    on_invalid: Literal["stop", "skip"] = "stop"
    """What to do with a row that is not valid."""
    quotes: bool | None = None
    """Whether double quotes enclose fields of CSV and TSV; None: those of CSV, not of TSV."""
    max_record_bytes: int = 256 << 20
    """The longest line or JSON value; limits memory."""


@dataclass(frozen=True, slots=True)
class Record:
    """The values of the wanted columns in one row."""

    values: Mapping[str, Any]
    path: str
    unit: Literal["line", "row", "value"]
    """What is counted: lines from 1, rows of Parquet and Arrow from 0, JSON values from 1."""
    number: int

    @property
    def place(self) -> str:
        """Where the row is: `reviews.csv line 17`."""
        return f"{self.path} {self.unit} {self.number}"


def refuse_record(options: RecordOptions, reason: str, *, place: str, fault: str) -> Skipped:
    """Skips an invalid row, or raises an error.

    Args:
        options: Their `on_invalid` decides.
        reason: The reason under which the row is counted.
        place: Where the row is.
        fault: What is wrong; follows the place in the message.

    Raises:
        InputError: `options.on_invalid` is `stop`.
    """
    if options.on_invalid == "stop":
        raise InputError(
            f"{place} {fault}; correct it, or leave such rows out with --on-invalid skip"
        )
    return Skipped(reason, place)


def missing_column(there: Iterable[str], options: RecordOptions) -> str | None:
    """The part of a message about a wanted column that is missing or ambiguous; None if all exist.

    Args:
        there: The columns that exist.
        options: The wanted columns.
    """
    names = list(there)
    for column, option in options.columns.items():
        if column not in names:
            quoted = [f"'{name}'" for name in names[:_NAMED_COLUMNS]]
            more = ", …" if len(names) > _NAMED_COLUMNS else ""
            shown = ", ".join(quoted) + more if quoted else "none"
            return f"has no column '{column}' (its columns: {shown}): correct {option}"
        if names.count(column) > 1:
            return f"has several columns '{column}': rename one, or correct {option}"
    return None
