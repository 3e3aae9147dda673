"""Plans the tasks of a sharding job: assigns pieces of files to tasks, by their sizes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from data_tools.jobs.task_sizes import MIB, group_by_bytes
from data_tools.reading.documents import Piece
from data_tools.reading.read_pieces import plan_pieces
from data_tools.reading.text_sources import TextSource

SHUFFLE_UNIT_BYTES = 16 * MIB
"""The size of the pieces whose order is shuffled."""


@dataclass(frozen=True, slots=True)
class TaskPart:
    """A piece of a file, and the label of its source."""

    source: str
    piece: Piece


@dataclass(frozen=True, slots=True)
class ShardTask:
    """Some pieces whose documents are written to at most one tar for each split."""

    number: int
    parts: tuple[TaskPart, ...]
    bytes: int


def plan_tasks(
    sources: Sequence[TextSource], *, task_bytes: int, shuffle_seed: int | None = None
) -> list[ShardTask]:
    """Cuts the files of each source, in order, into tasks of about `task_bytes`.

    Args:
        sources: The sources of text.
        task_bytes: A task ends with the piece that brings it to this size.
        shuffle_seed: Puts pieces of 16 MiB, of all sources together, into a random order.
    """
    if shuffle_seed is None:
        runs = [_parts(source, task_bytes) for source in sources]
    else:
        unit = min(task_bytes, SHUFFLE_UNIT_BYTES)
        parts = [part for source in sources for part in _parts(source, unit)]
        keys = [_random_key(number, shuffle_seed) for number in range(len(parts))]
        runs = [[part for _, part in sorted(zip(keys, parts, strict=True), key=itemgetter(0))]]
    groups = (
        group
        for run in runs
        for group in group_by_bytes(run, lambda part: part.piece.bytes, task_bytes=task_bytes)
    )
    return [
        ShardTask(number, group, sum(part.piece.bytes for part in group))
        for number, group in enumerate(groups)
    ]


def _parts(source: TextSource, piece_bytes: int) -> list[TaskPart]:
    pieces = plan_pieces(source, piece_bytes=piece_bytes)
    return [TaskPart(source.label, piece) for piece in pieces]


def _random_key(number: int, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {number}".encode(), digest_size=16).digest()
