"""The order of samples is arithmetic: a keyed permutation, computed where it is needed.

Nothing is shuffled in memory and nothing is saved: any sample of any epoch is found in constant
time, whatever the number of ranks.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_ROUNDS = 6

Indices = npt.NDArray[np.int64]


class SampleOrder:
    """Which window of a corpus is sample ``g`` of a run."""

    def __init__(
        self, *, num_windows: int, seed: int, fingerprint: str, sequence_length: int
    ) -> None:
        """Fixes the order.

        Args:
            num_windows: Windows in the corpus.
            seed: The run's seed.
            fingerprint: The corpus's fingerprint.
            sequence_length: Tokens in a window.
        """
        assert num_windows > 0
        self.num_windows = num_windows
        self._identity = f"{seed}/{fingerprint}/{sequence_length}"

    def windows(self, samples: Sequence[int]) -> Indices:
        """The windows of the given samples; each epoch visits every window once, in its own order.

        Args:
            samples: Numbers of samples, counted from the start of the run.

        Returns:
            One window's number for each sample.
        """
        numbers = np.asarray(samples, dtype=np.int64)
        epochs, positions = np.divmod(numbers, self.num_windows)
        windows = np.empty_like(numbers)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            windows[here] = permute(
                positions[here], size=self.num_windows, key=self._key(int(epoch))
            )
        return windows

    def _key(self, epoch: int) -> bytes:
        return hashlib.blake2b(f"{self._identity}/{epoch}".encode(), digest_size=32).digest()


def permute(positions: Indices, *, size: int, key: bytes) -> Indices:
    """A permutation of ``range(size)``: where each position is sent.

    A balanced Feistel network over the next even power of two, walked until it lands inside
    (Black & Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, section 4).

    Args:
        positions: Numbers in ``range(size)``.
        size: How many numbers are permuted.
        key: Chooses the permutation.
    """
    half_bits = max(1, -(-max(1, (size - 1).bit_length()) // 2))
    round_keys = [
        int.from_bytes(hashlib.blake2b(key, digest_size=8, salt=bytes([i])).digest(), "big")
        for i in range(_ROUNDS)
    ]
    result = _network(positions.astype(np.uint64), half_bits, round_keys)
    while (outside := result >= size).any():
        result[outside] = _network(result[outside], half_bits, round_keys)
    return result.astype(np.int64)


def _network(
    values: npt.NDArray[np.uint64], half_bits: int, keys: list[int]
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
