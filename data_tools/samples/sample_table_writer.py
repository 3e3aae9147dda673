"""Writes the arrays of a sample table in parts, so that memory does not grow with the corpus."""

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.array_files import ArrayWriter, FileInfo
from data_tools.files import part_path
from data_tools.samples.sample_table import (
    ARRAY_TYPES,
    IS_RANDOM,
    LENGTHS,
    ROWS,
    STARTS,
)

PAIR_RECORD = np.dtype(
    [("padded", "<i4"), ("starts", "<i8", (2,)), ("lengths", "<i4", (2,)), ("is_random", "u1")]
)
"""A sentence pair before it is written into a table."""
SPILL_NAME = "spill"
_BLOCK = 1 << 18


class TableWriter:
    """The arrays of one table."""

    def __init__(self, folder: Path, *, with_random: bool) -> None:
        names = [ROWS, STARTS, LENGTHS, *([IS_RANDOM] if with_random else [])]
        self._arrays = {name: ArrayWriter(folder / name, ARRAY_TYPES[name]) for name in names}

    def write(self, name: str, values: NDArray[Any], *, index: int | None = None) -> None:
        """Writes values into one array: at its end, or from `index` on."""
        array = self._arrays[name]
        array.write_at(array.count if index is None else index, values)

    def write_even_rows(self, num_samples: int, *, each: int) -> None:
        """Writes the rows of samples that have the same number of segments."""
        for first in range(0, num_samples + 1, _BLOCK):
            stop = min(first + _BLOCK, num_samples + 1)
            self.write(ROWS, np.arange(first, stop) * each)

    def count(self, name: str) -> int:
        """The number of values in one array."""
        return self._arrays[name].count

    def finish(self) -> dict[str, FileInfo]:
        """Gives every array its final name."""
        return {name: array.finish() for name, array in self._arrays.items()}

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for array in self._arrays.values():
            array.close()


class PairSorter:
    """Sorts pairs by padded length with a temporary file, so that memory does not grow."""

    def __init__(self, folder: Path, *, sequence_length: int) -> None:
        self._part = part_path(folder / SPILL_NAME)
        self._file = self._part.open("w+b")
        self._counts = np.zeros(sequence_length + 1, dtype=np.int64)

    @property
    def buckets(self) -> tuple[tuple[int, int], ...]:
        """Padded lengths, ascending, each with the number of its pairs."""
        lengths = np.flatnonzero(self._counts)
        return tuple((int(length), int(self._counts[length])) for length in lengths)

    def add(self, pairs: NDArray[Any]) -> None:
        """Adds pairs `[pairs]` of `PAIR_RECORD`."""
        self._file.write(pairs.tobytes())
        self._counts += np.bincount(pairs["padded"], minlength=len(self._counts))

    def write(self, table: TableWriter) -> None:
        """Writes the pairs into a table: by padded length, then in the order they were added."""
        next_indices = np.cumsum(self._counts) - self._counts
        self._file.seek(0)
        while content := self._file.read(_BLOCK * PAIR_RECORD.itemsize):
            pairs = np.frombuffer(content, dtype=PAIR_RECORD)
            pairs = pairs[np.argsort(pairs["padded"], kind="stable")]
            lengths, firsts = np.unique(pairs["padded"], return_index=True)
            for length, group in zip(lengths, np.split(pairs, firsts[1:]), strict=True):
                index = int(next_indices[length])
                next_indices[length] += len(group)
                table.write(STARTS, group["starts"].ravel(), index=2 * index)
                table.write(LENGTHS, group["lengths"].ravel(), index=2 * index)
                table.write(IS_RANDOM, group["is_random"], index=index)
        table.write_even_rows(int(self._counts.sum()), each=2)

    def __enter__(self) -> "PairSorter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)
