"""Reads Megatron-LM's `.bin` and `.idx` files, and defines their format.

The `.idx` file, little-endian: nine bytes `MMIDIDX\\0\\0`, version 1 (u64), the code of the token
type (u8), the number of sequences (u64) and of document marks (u64), then every sequence's length
(i32), its first byte in the `.bin` file (i64), and the document marks (i64): 0, then the number of
sequences up to each document's end. Source: `megatron/core/datasets/indexed_dataset.py`.
"""

import os
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from data_tools.errors import InputError

MAGIC = b"MMIDIDX\0\0"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
LENGTH: np.dtype[Any] = np.dtype("<i4")
POSITION: np.dtype[Any] = np.dtype("<i8")
TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("u1"),
    2: np.dtype("i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    8: np.dtype("<u2"),
}
"""The integer types by their codes; 6 and 7 are floats."""

_DOCUMENTS_AT_ONCE = 4096
_REMEDY = "restore both files from a good copy"


def file_paths(prefix: Path) -> tuple[Path, Path]:
    """The paths of the tokens and of the index: `PREFIX.bin` and `PREFIX.idx`."""
    return prefix.with_name(f"{prefix.name}.bin"), prefix.with_name(f"{prefix.name}.idx")


class MegatronFiles:
    """The two files of a Megatron dataset, checked against each other; read in bounded memory.

    Raises:
        InputError: A file is missing, or they are damaged or do not belong together.
    """

    def __init__(self, prefix: Path) -> None:
        self.bin, self.idx = file_paths(prefix)
        for path in (self.bin, self.idx):
            if not path.is_file():
                raise InputError(f"no file {path}: give a prefix that has a .bin and a .idx")
        self.bytes = self.bin.stat().st_size
        with self.idx.open("rb") as file:
            header = file.read(HEADER.size)
            self._read_header(header)
            self._check_sizes(file)

    def documents(self) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Yields every document: its ids `[tokens]`, and where each of its sequences starts."""
        with self.idx.open("rb") as index, self.bin.open("rb") as tokens:
            place = 0
            for first in range(0, self.num_documents, _DOCUMENTS_AT_ONCE):
                count = min(_DOCUMENTS_AT_ONCE, self.num_documents - first)
                marks, ends = self._sizes(index, first, count, place)
                for start, stop in pairwise(marks.tolist()):
                    size = int(ends[stop] - ends[start]) * self.dtype.itemsize
                    content = tokens.read(size)
                    if len(content) != size:
                        raise InputError(f"{self.bin} ends too early, at byte {place}: {_REMEDY}")
                    place += size
                    yield np.frombuffer(content, self.dtype), ends[start:stop] - ends[start]

    def _read_header(self, header: bytes) -> None:
        if len(header) < HEADER.size or not header.startswith(MAGIC):
            raise InputError(f"{self.idx} does not begin like a Megatron index: {_REMEDY}")
        _, found_version, code, self._num_sequences, num_marks = HEADER.unpack(header)
        if found_version != VERSION:
            raise InputError(f"{self.idx} has version {found_version}; only {VERSION} is supported")
        if code not in TYPES:
            raise InputError(f"{self.idx}: token type {code} at byte 17 is not an integer type")
        self.dtype = TYPES[code]
        if num_marks < 1:
            raise InputError(f"{self.idx} has no document mark, not even the first: {_REMEDY}")
        self.num_documents = num_marks - 1
        self._pointers_at = HEADER.size + self._num_sequences * LENGTH.itemsize
        self._marks_at = self._pointers_at + self._num_sequences * POSITION.itemsize

    def _check_sizes(self, file: IO[bytes]) -> None:
        size = os.fstat(file.fileno()).st_size
        plain = self._marks_at + (self.num_documents + 1) * POSITION.itemsize
        if size not in (plain, plain + self._num_sequences):  # The latter with a mode for each.
            raise InputError(
                f"{self.idx} has {size} bytes, and its header needs {plain}: {_REMEDY}"
            )
        first, last = (self._marks(file, number, 1)[0] for number in (0, self.num_documents))
        if (first, last) != (0, self._num_sequences):
            raise InputError(
                f"{self.idx}: the document marks from byte {self._marks_at} on run from {first} "
                f"to {last}, not from 0 to {self._num_sequences} sequences: {_REMEDY}"
            )
        end = 0
        if self._num_sequences:
            pointer, length = self._sequences(file, self._num_sequences - 1, self._num_sequences)
            end = int(pointer[0]) + int(length[0]) * self.dtype.itemsize
        if end != self.bytes:
            raise InputError(
                f"{self.bin} has {self.bytes} bytes, and {self.idx} says {end}: "
                f"one of them is truncated or belongs to other tokens; {_REMEDY}"
            )

    def _sizes(
        self, file: IO[bytes], first: int, count: int, place: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The marks of some documents and the ends of their sequences, both relative to the first.

        `place` is the byte of the `.bin` at which the first of them begins.
        """
        marks = self._marks(file, first, count + 1)
        if np.any(np.diff(marks) < 0) or marks[-1] > self._num_sequences:
            raise InputError(
                f"{self.idx}: the document marks of documents {first} to {first + count - 1} "
                f"do not ascend: {_REMEDY}"
            )
        pointers, lengths = self._sequences(file, int(marks[0]), int(marks[-1]))
        ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        wrong = (lengths < 0) | (pointers != place + ends[:-1] * self.dtype.itemsize)
        if wrong.any():
            number = int(marks[0]) + int(np.argmax(wrong))
            raise InputError(
                f"{self.idx}: sequence {number} does not follow the one before: {_REMEDY}"
            )
        return marks - marks[0], ends

    def _marks(self, file: IO[bytes], first: int, count: int) -> NDArray[np.int64]:
        return _read_at(file, self._marks_at, first, count, POSITION)

    def _sequences(
        self, file: IO[bytes], first: int, stop: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        count = stop - first
        pointers = _read_at(file, self._pointers_at, first, count, POSITION)
        return pointers, _read_at(file, HEADER.size, first, count, LENGTH).astype(np.int64)


def _read_at(
    file: IO[bytes], offset: int, first: int, count: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    file.seek(offset + first * dtype.itemsize)
    return np.frombuffer(file.read(count * dtype.itemsize), dtype)
