"""Counts the input files that are not read, by reason, with an example for each reason."""

from collections.abc import Iterator
from dataclasses import dataclass

from data_tools.reading.file_formats import REMEDIES

_NAMED = 10

OWN_OUTPUT = "written by this command"
"""A reason that is not recorded, because its count differs between the first run and the next."""


@dataclass(slots=True)
class _Tally:
    files: int
    example: str


class LeftOut:
    """Counts files, folders and links that are not read."""

    def __init__(self) -> None:
        self._tallies: dict[str, _Tally] = {}
        self._detected: dict[str, _Tally] = {}

    def add(self, reason: str, example: str) -> None:
        """Counts one file, folder or link."""
        _count(self._tallies, reason, example)

    def count_read(self, how: str, example: str) -> None:
        """Counts a file that is read although its name does not show its format."""
        _count(self._detected, how, example)

    def lines(self) -> Iterator[str]:
        """Renders the counts in up to two lines; none if nothing was counted."""
        if self._tallies:
            yield f"left out: {_render(self._tallies)}"
        if self._detected:
            yield f"without a known ending: {_render(self._detected)}"

    def record(self) -> dict[str, dict[str, object]]:
        """The counts in a job's record: number of files and first example, by reason."""
        return {
            reason: {"files": tally.files, "example": tally.example}
            for reason, tally in sorted(self._tallies.items())
            if reason != OWN_OUTPUT
        }


def _count(tallies: dict[str, _Tally], reason: str, example: str) -> None:
    reason, example = _printable(reason), _printable(example)
    tally = tallies.setdefault(reason, _Tally(0, example))
    tally.files += 1
    tally.example = min(tally.example, example, key=lambda name: (name.count("/"), name))


def _render(tallies: dict[str, _Tally]) -> str:
    rows = sorted(tallies.items(), key=lambda row: (-row[1].files, row[0]))
    named = [
        f"{tally.files:,} {reason} ({_example(tally)}{_remedy(reason)})"
        for reason, tally in rows[:_NAMED]
    ]
    if others := rows[_NAMED:]:
        files = sum(tally.files for _, tally in others)
        named.append(f"{files:,} more for {len(others)} other reasons or endings")
    return ", ".join(named)


def _remedy(reason: str) -> str:
    remedy = REMEDIES.get("." + reason.rpartition(".")[2]) if reason.startswith(".") else None
    return f"; {remedy}" if remedy else ""


def _example(tally: _Tally) -> str:
    return f"e.g. {tally.example}" if tally.files > 1 else tally.example


def _printable(name: str) -> str:
    """Replaces unprintable characters: a name need not be UTF-8, and may contain line ends."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
