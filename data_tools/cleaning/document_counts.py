"""Counts of documents: how many were read, changed, dropped by each rule, kept.

The counts of tasks can be added up; the example of a rule is the first document that it counted.
"""

from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict

EXACT = "exact_duplicates"
NEAR = "near_duplicates"


class Tally(BaseModel):
    """The counts of one rule or one reason."""

    model_config = ConfigDict(extra="forbid")

    documents: int = 0
    """Documents dropped, skipped or changed."""
    changes: int = 0
    """The number of changes in these documents; 0 for a rule that drops documents."""
    example: str = ""
    """The place of the first of these documents."""


class Counts(BaseModel):
    """Counts of some documents. `documents` = `kept` + `dropped` + `skipped`."""

    model_config = ConfigDict(extra="forbid")

    documents: int = 0
    """Documents of the input, including those that could not be read."""
    kept: int = 0
    """Documents in the output."""
    characters: int = 0
    """Characters of text that were read."""
    bytes_kept: int = 0
    """Bytes of JSON Lines in the output, before compression."""
    skipped: dict[str, Tally] = {}
    """Documents that could not be read, by reason."""
    changed: dict[str, Tally] = {}
    """Documents that a rule changed, by rule, including documents dropped later."""
    dropped: dict[str, Tally] = {}
    """Documents that were dropped, by the first rule that dropped them."""

    @property
    def num_dropped(self) -> int:
        """Documents dropped, by any rule."""
        return sum(tally.documents for tally in self.dropped.values())

    @property
    def num_skipped(self) -> int:
        """Documents skipped, for any reason."""
        return sum(tally.documents for tally in self.skipped.values())

    def read(self, text: str, edits: Mapping[str, int], place: str) -> None:
        """Counts a document that was read, and what the rules changed in it."""
        self.documents += 1
        self.characters += len(text)
        for rule, changes in edits.items():
            _count(self.changed, rule, place, changes)

    def skip(self, reason: str, place: str) -> None:
        """Counts a document that could not be read."""
        self.documents += 1
        _count(self.skipped, reason, place, 0)

    def drop(self, rule: str, place: str) -> None:
        """Counts a document that was read and then dropped."""
        _count(self.dropped, rule, place, 0)

    def keep(self, documents: int, size: int) -> None:
        """Counts documents of the output and the bytes of their lines."""
        self.kept += documents
        self.bytes_kept += size


def add_counts(all_counts: Iterable[Counts]) -> Counts:
    """Adds up the counts of tasks, in their order."""
    total = Counts()
    for counts in all_counts:
        total.documents += counts.documents
        total.kept += counts.kept
        total.characters += counts.characters
        total.bytes_kept += counts.bytes_kept
        for name in ("skipped", "changed", "dropped"):
            _add_tallies(getattr(total, name), getattr(counts, name))
    return total


def _add_tallies(total: dict[str, Tally], more: Mapping[str, Tally]) -> None:
    for name, tally in more.items():
        sum_ = total.setdefault(name, Tally(example=tally.example))
        sum_.documents += tally.documents
        sum_.changes += tally.changes


def _count(tallies: dict[str, Tally], name: str, place: str, changes: int) -> None:
    tally = tallies.setdefault(name, Tally(example=place))
    tally.documents += 1
    tally.changes += changes
