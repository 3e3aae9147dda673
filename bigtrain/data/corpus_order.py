"""The order of samples within one corpus: keyed permutations, computed for any sample number.

Nothing is shuffled in memory and nothing is saved: any sample of any epoch is found in constant
time, independent of the number of ranks.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Shuffle = Literal["blocks", "windows"]
Indices = npt.NDArray[np.int64]

BLOCK_TOKENS = 1 << 20
"""Neighbouring windows of this many tokens are moved as one block, for one long read."""
BLOCKS_MIXED = 64
"""Number of blocks whose windows are permuted together."""
_ROUNDS = 6


class SourceOrder(Protocol):
    """The order of the rows of one source, epoch after epoch."""

    units_per_epoch: int
    """A unit is one window, or one batch of rows of similar length."""

    def rows(self, units: Indices, slots: Indices) -> tuple[Indices, Indices]:
        """The epoch and the row of each (unit, slot in the unit)."""


class WindowOrder:
    """Visits every window once in each epoch; epochs have different orders."""

    def __init__(
        self, count: int, *, identity: str, windows_per_block: int = 0, blocks_mixed: int = 1
    ) -> None:
        """Fixes the order.

        Args:
            count: Windows in the source.
            identity: The text that the order depends on: seed, fingerprint and sequence length.
            windows_per_block: Windows moved as one block; 0 permutes all windows freely.
            blocks_mixed: Blocks whose windows are permuted together.
        """
        assert count > 0
        self.units_per_epoch = count
        self._identity = identity
        self._block, self._mixed = windows_per_block, blocks_mixed

    def rows(self, units: Indices, slots: Indices) -> tuple[Indices, Indices]:
        """The epoch and the window of each unit; a unit is one window and has one slot."""
        epochs, positions = np.divmod(units, self.units_per_epoch)
        windows = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            arrange = self._in_blocks if self._block else self._freely
            windows[here] = arrange(positions[here], int(epoch))
        return epochs, windows

    def _freely(self, positions: Indices, epoch: int) -> Indices:
        return permute(positions, size=self.units_per_epoch, key=self._key(epoch))

    def _in_blocks(self, positions: Indices, epoch: int) -> Indices:
        count, block = self.units_per_epoch, self._block
        blocks = count // block
        windows = np.empty_like(positions)
        groups = np.minimum(positions, blocks * block - 1) // (block * self._mixed)
        rest = positions >= blocks * block  # Windows that do not fill a block come last.
        for group in np.unique(groups[~rest]):
            here = (groups == group) & ~rest
            first = int(group) * self._mixed
            size = min(self._mixed, blocks - first) * block
            mixed = permute(
                positions[here] - first * block, size=size, key=self._key(epoch, f"group {group}")
            )
            places = permute(first + mixed // block, size=blocks, key=self._key(epoch, "blocks"))
            windows[here] = places * block + mixed % block
        if rest.any():
            mixed = permute(
                positions[rest] - blocks * block,
                size=count - blocks * block,
                key=self._key(epoch, "rest"),
            )
            windows[rest] = blocks * block + mixed
        # Blocks begin at another window in each epoch, so that different windows come last.
        shift = int.from_bytes(self._key(epoch, "shift")[:8], "big") % count
        return (windows + shift) % count

    def _key(self, epoch: int, what: str = "") -> bytes:
        return keyed_hash(f"{self._identity}/{epoch}" + (f"/{what}" if what else ""))


class BucketOrder:
    """Draws complete batches of rows of similar length, in a new order in each epoch.

    The rows of a source are sorted by length, in buckets. Rows that do not fill a batch of
    their bucket are left out of an epoch; each epoch leaves out other rows.
    """

    def __init__(self, buckets: Sequence[tuple[int, int]], *, batch: int, identity: str) -> None:
        """Fixes the order.

        Args:
            buckets: ``(padded length, rows)`` in the order of the rows, shortest first.
            batch: Rows drawn together.
            identity: The text that the order depends on: seed, fingerprint and sequence length.
        """
        self._identity, self._batch = identity, batch
        sizes = _merge_small([rows for _, rows in buckets], at_least=batch)
        self._sizes = np.array(sizes, dtype=np.int64)
        self._firsts = np.cumsum([0, *sizes])
        self._units = np.cumsum([0, *(size // batch for size in sizes)])
        self.units_per_epoch = int(self._units[-1])

    def rows(self, units: Indices, slots: Indices) -> tuple[Indices, Indices]:
        """The epoch and the row of each slot of each batch."""
        epochs, positions = np.divmod(units, self.units_per_epoch)
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._rows_of_epoch(positions[here], slots[here], int(epoch))
        return epochs, rows

    def _rows_of_epoch(self, positions: Indices, slots: Indices, epoch: int) -> Indices:
        key = keyed_hash(f"{self._identity}/{epoch}")
        places = permute(positions, size=self.units_per_epoch, key=key)
        buckets = np.searchsorted(self._units, places, side="right") - 1
        within = (places - self._units[buckets]) * self._batch + slots
        rows = np.empty_like(within)
        for bucket in np.unique(buckets):
            here = buckets == bucket
            key = keyed_hash(f"{self._identity}/{epoch}/bucket {bucket}")
            mixed = permute(within[here], size=int(self._sizes[bucket]), key=key)
            rows[here] = self._firsts[bucket] + mixed
        return rows


def window_order(
    count: int, *, seed: int, fingerprint: str, sequence_length: int, shuffle: Shuffle
) -> WindowOrder:
    """The order of a source of windows, or of rows of a sample table.

    Args:
        count: Windows or rows.
        seed: The run's seed.
        fingerprint: The fingerprint of the corpus, or of the sample table.
        sequence_length: Tokens in a window.
        shuffle: ``windows`` permutes all freely; ``blocks`` moves neighbours together, so that
            reads are long.
    """
    return WindowOrder(
        count,
        identity=f"{seed}/{fingerprint}/{sequence_length}",
        windows_per_block=max(1, BLOCK_TOKENS // sequence_length) if shuffle == "blocks" else 0,
        blocks_mixed=BLOCKS_MIXED,
    )


def keyed_hash(text: str) -> bytes:
    """A hash of 32 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=32).digest()


def permute(positions: Indices, *, size: int, key: bytes) -> Indices:
    """Applies a keyed permutation of ``range(size)`` to positions.

    A balanced Feistel network over the next even power of two, applied again until the result is
    below ``size`` (Black & Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002,
    section 4).

    Args:
        positions: Numbers in ``range(size)``.
        size: How many numbers are permuted.
        key: Chooses the permutation.
    """
    half_bits = max(1, -(-max(1, (size - 1).bit_length()) // 2))
    round_keys = _round_keys(key)
    result = _network(positions.astype(np.uint64), half_bits, round_keys)
    while (outside := result >= size).any():
        result[outside] = _network(result[outside], half_bits, round_keys)
    return result.astype(np.int64)


def _merge_small(sizes: list[int], *, at_least: int) -> list[int]:
    """Joins a bucket that has fewer rows than a batch to the next longer one."""
    merged: list[int] = []
    waiting = 0
    for size in sizes:
        waiting += size
        if waiting >= at_least:
            merged.append(waiting)
            waiting = 0
    if waiting and merged:
        merged[-1] += waiting
    return merged


@lru_cache(maxsize=256)
def _round_keys(key: bytes) -> tuple[int, ...]:
    return tuple(
        int.from_bytes(hashlib.blake2b(key, digest_size=8, salt=bytes([i])).digest(), "big")
        for i in range(_ROUNDS)
    )


def _network(
    values: npt.NDArray[np.uint64], half_bits: int, keys: Sequence[int]
) -> npt.NDArray[np.uint64]:
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ np.uint64(key)) & mask)
    return (left << bits) | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
