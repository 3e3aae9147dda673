"""Counts rows that are left out or cut, and refuses inputs from which nothing can be learned."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from data_tools.errors import InputError
from data_tools.labels.label_options import LabelOptions
from data_tools.labels.label_rows import LabelRow, TooLong
from data_tools.labels.label_table import Split
from data_tools.labels.label_table_writer import LabelTableWriter
from data_tools.reading.documents import Skipped

TOO_LONG = "too long"
_NAMED_PLACES = 5


@dataclass(slots=True)
class Places:
    """A count of rows, and the places of the first of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        """Counts a row."""
        self.count += 1
        if len(self.first) < _NAMED_PLACES:
            self.first.append(place)

    def __str__(self) -> str:
        return ", ".join(self.first) + (", …" if self.count > len(self.first) else "")


class RowCounts:
    """What happened to the rows of all inputs."""

    def __init__(self) -> None:
        self.rows = 0
        """Rows that were read, whether they are in a table or not."""
        self.left_out: dict[str, Places] = {}
        self.truncated = Places()

    def count(self, made: LabelRow | TooLong | Skipped, place: str) -> None:
        """Counts a row by what was made of it."""
        self.rows += 1
        match made:
            case TooLong():
                self._leave_out(TOO_LONG, f"{made.place}: {made.length:,} tokens")
            case Skipped():
                self._leave_out(made.reason, made.place)
            case LabelRow() if made.untruncated:
                self.truncated.add(f"{place}: {made.untruncated:,} tokens")

    @property
    def by_reason(self) -> dict[str, int]:
        """How many rows were left out, by reason."""
        return {reason: places.count for reason, places in sorted(self.left_out.items())}

    def lines(self) -> Iterator[str]:
        """What to tell the user: rows left out and cut, with the first of them."""
        for reason, places in sorted(self.left_out.items()):
            yield f"{places.count:,} rows left out, {reason}: {places}"
        if self.truncated.count:
            yield f"{self.truncated.count:,} rows cut to the maximum length: {self.truncated}"

    def _leave_out(self, reason: str, place: str) -> None:
        self.left_out.setdefault(reason, Places()).add(place)


def check_lengths(counts: RowCounts, options: LabelOptions) -> None:
    """Refuses rows that are too long, unless they are to be left out.

    Raises:
        InputError: Some rows are too long.
    """
    long = counts.left_out.get(TOO_LONG)
    if not long or options.on_invalid == "skip":
        return
    remedy = (
        "raise it, or leave such rows out with --on-invalid skip (nothing of the answer, or of a "
        "text, would be left of them)"
        if options.truncate
        else "raise it, cut them with --truncate, or leave them out with --on-invalid skip"
    )
    raise InputError(
        f"{long.count:,} of {counts.rows:,} rows are longer than --max-length "
        f"{options.max_length} tokens ({long}): {remedy}"
    )


def check_splits(
    writers: Mapping[Split, LabelTableWriter], counts: RowCounts, options: LabelOptions
) -> None:
    """Refuses splits without rows.

    Raises:
        InputError: A split is empty.
    """
    total = sum(writer.num_rows for writer in writers.values())
    if not total:
        why = ", ".join(f"{count:,} {reason}" for reason, count in counts.by_reason.items())
        raise InputError(f"no row is left of {counts.rows:,} ({why or 'none read'}): correct them")
    for split, writer in writers.items():
        if not writer.num_rows:
            change = "lower" if split == "train" else "raise"
            raise InputError(
                f"none of {total:,} rows would be in the {split} split: {change} "
                f"--validation-percent from {options.validation_percent:g}, or set it to 0"
            )


def order_labels(
    writers: Mapping[Split, LabelTableWriter], options: LabelOptions
) -> tuple[str, ...]:
    """The classes in the order of their numbers.

    Whole numbers are sorted as numbers, other names by their characters.

    Raises:
        InputError: There is only one class, or a class has no row to train on.
    """
    if options.kind == "answers":
        return ()
    total: Counter[str] = sum((writer.counts for writer in writers.values()), Counter())
    names = options.labels or _sorted_names(total)
    empty = [name for name in names if not total[name]]
    if empty:
        raise InputError(
            f"no row has the label {', '.join(map(repr, empty))} of --labels (rows have "
            f"{_shown(total)}): leave it out of --labels, or add rows"
        )
    if len(total) < 2:
        raise InputError(
            f"all {total.total():,} rows have one label, {next(iter(total))!r}: "
            "a classifier needs at least two classes"
        )
    missing = [name for name in names if not writers["train"].counts[name]]
    if missing:
        raise InputError(
            f"all rows with the label {', '.join(map(repr, missing))} would be in the validation "
            "split: lower --validation-percent, or choose another --seed"
        )
    return names


def _sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    found = sorted(names)
    if all(name.removeprefix("-").isdecimal() and name == str(int(name)) for name in found):
        found.sort(key=int)
    return tuple(found)


def _shown(total: Counter[str]) -> str:
    return ", ".join(f"{count:,} × {name!r}" for name, count in sorted(total.items())[:12])
