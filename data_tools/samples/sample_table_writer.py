"""Writes the arrays of a sample table in parts, so that memory does not grow with the corpus."""

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.files import file_sha256, finish_file, part_path
from data_tools.samples.sample_table import (
    ARRAY_TYPES,
    IS_RANDOM,
    LENGTHS,
    ROWS,
    STARTS,
    FileInfo,
)

PAIR_RECORD = np.dtype(
    [("padded", "<i4"), ("starts", "<i8", (2,)), ("lengths", "<i4", (2,)), ("is_random", "u1")]
)
"""A sentence pair before it is written into a table."""
SPILL_NAME = "spill"
_BLOCK = 1 << 18


class ArrayWriter:
    """A `.npy` file to which values are appended; it has a temporary name until it is finished."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path, self._part = path, part_path(path)
        self._type = ARRAY_TYPES[path.name]
        self._file = self._part.open("wb")
        self._write_header()
        self._offset = self._file.tell()

    def append(self, values: NDArray[Any]) -> None:
        """Adds values at the end."""
        self.write_at(self.count, values)

    def write_at(self, index: int, values: NDArray[Any]) -> None:
        """Writes values from `index` on."""
        self._file.seek(self._offset + index * self._type.itemsize)
        self._file.write(values.astype(self._type).tobytes())
        self.count = max(self.count, index + len(values))

    def finish(self) -> FileInfo:
        """Gives the file its final name."""
        self._file.seek(0)
        self._write_header()
        # numpy pads the header, so a longer shape does not change its size.
        assert self._file.tell() == self._offset
        self._file.close()
        info = FileInfo(bytes=self._part.stat().st_size, sha256=file_sha256(self._part))
        finish_file(self._part, self._path)
        return info

    def close(self) -> None:
        """Closes the file, finished or not."""
        self._file.close()

    def _write_header(self) -> None:
        description = np.lib.format.dtype_to_descr(self._type)
        header = {"descr": description, "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self._file, header)


class TableWriter:
    """The arrays of one table."""

    def __init__(self, folder: Path, *, with_random: bool) -> None:
        names = [ROWS, STARTS, LENGTHS, *([IS_RANDOM] if with_random else [])]
        self._arrays = {name: ArrayWriter(folder / name) for name in names}

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
