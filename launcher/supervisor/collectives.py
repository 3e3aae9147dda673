"""Compares the last collectives of the ranks of a run that hangs. Pure.

Each rank reports what torch's flight recorder has (`bigtrain.parallel.recorded_collectives`). All
ranks of a process group count its collectives alike, so the numbers tell who is behind.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from launcher.supervisor.describe import name_ranks

GROUPS = 12
"""Process groups that the report shows; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A collective that a rank has called and that has not ended."""

    number: int | None
    """Its number in the process group; None for a send or a receive."""
    name: str
    sizes: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        number = "" if self.number is None else f" {self.number}"
        sizes = ", ".join("×".join(map(str, size)) or "scalar" for size in self.sizes)
        return f"{self.name}{number}" + (f" of {sizes}" if sizes else "")


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """What one rank has recorded about one process group."""

    group: str
    description: str
    newest: int
    """The number of its newest collective."""
    pending: Pending | None


_RECORDS = TypeAdapter(list[GroupRecord])


def read_collectives(text: str) -> list[GroupRecord]:
    """Reads what a rank has written; empty if there is nothing that can be read."""
    try:
        return _RECORDS.validate_json(text)
    except ValidationError:
        return []


def render_collectives(texts: Mapping[int, str]) -> list[str]:
    """A line for each process group in which a rank waits.

    Args:
        texts: What each rank has written.
    """
    groups: dict[tuple[str, str], dict[int, GroupRecord]] = defaultdict(dict)
    for rank, text in texts.items():
        for record in read_collectives(text):
            groups[record.group, record.description][rank] = record
    lines = [line for members in groups.values() for line in _render_group(members)]
    if len(lines) > GROUPS:
        lines = [*lines[:GROUPS], f"  {len(lines) - GROUPS} more process groups"]
    return lines


def _render_group(members: Mapping[int, GroupRecord]) -> Iterator[str]:
    waiting: dict[str, list[int]] = defaultdict(list)
    for rank, record in members.items():
        if record.pending is not None:
            waiting[str(record.pending)].append(rank)
    if not waiting:
        return
    parts = [
        f"{name_ranks(ranks)} {'waits' if len(ranks) == 1 else 'wait'} in {what}"
        for what, ranks in waiting.items()
    ]
    behind: dict[int, list[int]] = defaultdict(list)
    highest = max(record.newest for record in members.values())
    for rank, record in members.items():
        if record.newest < highest:
            behind[record.newest].append(rank)
    parts += [f"behind: {name_ranks(ranks)}, newest {newest}" for newest, ranks in behind.items()]
    first = next(iter(members.values()))
    name = f" ({first.description})" if first.description not in ("", "undefined") else ""
    yield f"  group {first.group}{name}: {'; '.join(parts)}"
