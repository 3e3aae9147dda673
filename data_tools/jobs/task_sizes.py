"""Chooses the amount of input per task."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from data_tools.reading.text_sources import TextSource

MIB = 1 << 20
Part = TypeVar("Part")


def choose_task_bytes(sources: Sequence[TextSource]) -> int:
    """Chooses 1/64 of the input per task, from 4 to 256 MiB."""
    total = sum(file.bytes for source in sources for file in source.files)
    return min(max(total // 64, 4 * MIB), 256 * MIB)


def group_by_bytes(
    parts: Iterable[Part], bytes_of: Callable[[Part], int], *, task_bytes: int
) -> Iterator[tuple[Part, ...]]:
    """Groups parts, in order; a group ends with the part that brings it to `task_bytes`."""
    group: list[Part] = []
    size = 0
    for part in parts:
        group.append(part)
        size += bytes_of(part)
        if size >= task_bytes:
            yield tuple(group)
            group, size = [], 0
    if group:
        yield tuple(group)
