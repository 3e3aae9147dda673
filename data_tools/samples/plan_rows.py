"""Plans rows of one length: cuts documents into chunks, then packs chunks into nearly full rows.

A chunk of length `n` is `n` input tokens of one document with their targets, which are the next
tokens. So a document of `n` tokens has `n - 1` inputs, each in exactly one chunk.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Chunks:
    """Parts of documents, in the order of the token stream."""

    starts: Indices
    """`[chunks]`: the position of the first input token."""
    lengths: NDArray[np.int32]
    """`[chunks]`: the number of input tokens."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Which chunks share a row."""

    order: Indices
    """`[chunks]`: the numbers of the chunks, row by row."""
    rows: Indices
    """`[rows + 1]`: the index in `order` at which each row begins."""


def cut_documents(starts: Indices, stops: Indices, *, sequence_length: int) -> Chunks:
    """Cuts documents into chunks of `sequence_length`; the last of each may be shorter.

    Args:
        starts: `[documents]`: the position of the first token.
        stops: `[documents]`: the position after the last token; a document of one token gives no
            chunk.
        sequence_length: The length of the longest chunk.
    """
    pairs = stops - starts - 1
    counts = -(-pairs // sequence_length)
    firsts = np.cumsum(counts) - counts
    cut = (np.arange(int(counts.sum())) - np.repeat(firsts, counts)) * sequence_length
    lengths = np.minimum(np.repeat(pairs, counts) - cut, sequence_length)
    return Chunks(starts=np.repeat(starts, counts) + cut, lengths=lengths.astype(np.int32))


def plan_bestfit(lengths: NDArray[np.int32], *, capacity: int) -> Packing:
    """Packs chunks into rows by best-fit decreasing.

    Each chunk, longest first, goes into the fullest row that still has room for it (Best-fit
    Packing: Ding et al., "Fewer Truncations Improve Language Modeling", arXiv 2404.10830).
    Chunks of the same length and rows with the same free space are interchangeable, so they are
    handled together: at most `capacity ** 2 / 2` steps for any number of chunks. Memory: about 50
    bytes per chunk.

    Args:
        lengths: `[chunks]`, from 1 to `capacity`.
        capacity: Tokens in a row.
    """
    width: type[np.unsignedinteger] = np.uint16 if capacity < 1 << 16 else np.uint32
    longest_first = np.argsort((capacity - lengths).astype(width), kind="stable")
    counts = np.bincount(lengths, minlength=capacity + 1)
    rows, num_rows = _assign_rows(counts, capacity=capacity)
    order = longest_first[np.argsort(rows, kind="stable")]
    ends = np.cumsum(np.bincount(rows, minlength=num_rows))
    return Packing(order=order, rows=np.concatenate([[0], ends]).astype(np.int64))


def _assign_rows(counts: Indices, *, capacity: int) -> tuple[Indices, int]:
    """Gives each chunk, longest first, the number of its row."""
    free_rows = _FreeRows(capacity)
    parts = []
    for length in np.flatnonzero(counts)[::-1].tolist():
        todo = int(counts[length])
        while todo:
            free, rows = free_rows.take_fullest(length, todo)
            each = free // length
            placed = min(todo, len(rows) * each)
            parts.append(np.repeat(rows, each)[:placed])
            full, left = divmod(placed, each)
            free_rows.give(free - each * length, rows[:full])
            free_rows.give(free - left * length, rows[full:])
            todo -= placed
    return np.concatenate(parts), free_rows.num_rows


class _FreeRows:
    """The rows that have free space, grouped by the number of free tokens."""

    def __init__(self, capacity: int) -> None:
        self.num_rows = 0
        self._capacity = capacity
        self._rows: list[list[Indices]] = [[] for _ in range(capacity + 1)]
        self._present = 0  # Bit `n` is set if there are rows with `n` free tokens.

    def take_fullest(self, length: int, wanted: int) -> tuple[int, Indices]:
        """Takes the fullest rows with space for a chunk of `length`, enough for `wanted` chunks.

        Returns:
            Their free space, and their numbers, which may be too few for all the chunks.
        """
        above = self._present >> length
        free = length + (above & -above).bit_length() - 1 if above else self._capacity
        needed = -(-wanted // (free // length))
        if not above:
            self.num_rows += needed
            return free, np.arange(self.num_rows - needed, self.num_rows)
        taken: list[Indices] = []
        blocks = self._rows[free]
        while blocks and needed:
            block = blocks.pop()
            taken.append(block[:needed])
            if len(block) > needed:
                blocks.append(block[needed:])
            needed -= len(taken[-1])
        if not blocks:
            self._present &= ~(1 << free)
        return free, np.concatenate(taken)

    def give(self, free: int, rows: Indices) -> None:
        """Puts rows back, with `free` free tokens each."""
        if free and len(rows):
            self._rows[free].append(rows)
            self._present |= 1 << free
