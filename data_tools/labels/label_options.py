"""The options of a label job, and what they ask of the input."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from data_tools.errors import InputError
from data_tools.labels.label_table import RowKind

_COLUMNS_OF: dict[RowKind, tuple[tuple[str, ...], ...]] = {
    "classes": (("text", "label"), ("text", "pair", "label")),
    "answers": (("prompt", "answer"), ("messages",)),
}
_WAYS = "--text and --label (with --pair for two texts), or --prompt and --answer, or --messages"


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """What becomes a row, and what happens to rows that cannot be used."""

    columns: Mapping[str, str]
    """The column of each role: `text`, `pair` and `label`; `prompt` and `answer`; or `messages`."""
    labels: tuple[str, ...] = ()
    """The classes in the order of their numbers; empty: those of the input, sorted."""
    max_length: int | None = None
    """The maximum number of tokens of a row, with special tokens; None: any."""
    truncate: bool = False
    """Whether longer rows are cut."""
    on_invalid: Literal["stop", "skip"] = "stop"
    """What to do with invalid rows, and with longer rows that are not cut."""
    validation_percent: float = 0.0
    """The percentage of rows for the validation split; 0 makes no split."""
    seed: int = 0
    """Chooses the validation split, together with the content of a row."""
    quotes: bool | None = None
    """Whether double quotes enclose fields of CSV and TSV; None: those of CSV, not of TSV."""

    @property
    def kind(self) -> RowKind:
        """What a row is."""
        return "classes" if "label" in self.columns else "answers"

    @property
    def options_of_columns(self) -> dict[str, str]:
        """For each column, the option that names it."""
        return {column: f"--{role}" for role, column in self.columns.items()}

    def identity(self) -> dict[str, Any]:
        """All options that determine the content of the tables."""
        return {
            "columns": dict(self.columns),
            "labels": list(self.labels),
            "max_length": self.max_length,
            "truncate": self.truncate,
            "on_invalid": self.on_invalid,
            "validation_percent": self.validation_percent,
            "seed": self.seed,
            "quotes": self.quotes,
        }


def check_label_options(options: LabelOptions) -> None:
    """Checks options that do not depend on the input.

    Raises:
        InputError: An option is out of range, or options do not fit each other.
    """
    roles = tuple(options.columns)
    if not any(set(roles) == set(way) for ways in _COLUMNS_OF.values() for way in ways):
        given = ", ".join(f"--{role}" for role in roles) or "none"
        raise InputError(f"the columns do not make rows (given: {given}): give {_WAYS}")
    if len(set(options.columns.values())) < len(roles):
        raise InputError("two options name the same column: give each its own")
    if options.labels:
        _check_labels(options)
    if options.max_length is not None and options.max_length < 8:
        raise InputError(f"--max-length {options.max_length} must be at least 8")
    if options.truncate and options.max_length is None:
        raise InputError("--truncate needs --max-length")
    if not 0 <= options.validation_percent < 100:
        raise InputError(
            f"--validation-percent {options.validation_percent:g} must be from 0 to below 100"
        )


def _check_labels(options: LabelOptions) -> None:
    if options.kind == "answers":
        raise InputError("--labels is for rows with --label: leave it out")
    if not all(options.labels):
        raise InputError("--labels has an empty name: separate names by one comma each")
    if len(options.labels) < 2:
        raise InputError("--labels must name at least two classes")
    for name in options.labels:
        if options.labels.count(name) > 1:
            raise InputError(f"--labels names {name!r} twice: name it once")
