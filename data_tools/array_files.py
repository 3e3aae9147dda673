"""One-dimensional `.npy` files: read at any position, and written in parts.

Reads with `os.preadv`, not through a memory map, as the corpus does; so several threads, and
processes after a fork, may read one file. Memory does not grow with the length of a file.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from data_tools.errors import InputError
from data_tools.files import file_sha256, finish_file, part_path


class FileInfo(BaseModel):
    """The size and hash of one file, for a manifest."""

    # A later version may add keys; this version must still read the manifest.
    model_config = ConfigDict(frozen=True, extra="ignore")

    bytes: int
    sha256: str


class ArrayFile:
    """A one-dimensional `.npy` file that is read at any position."""

    def __init__(
        self, path: Path, info: FileInfo, *, dtype: np.dtype[Any], length: int, remedy: str
    ) -> None:
        """Opens the file and checks its size, type and length.

        Args:
            path: The file.
            info: Its size in the manifest.
            dtype: The type of its values.
            length: The number of its values.
            remedy: What the user can do, for error messages.

        Raises:
            InputError: The file is missing or damaged.
        """
        self._path, self._remedy, self._type = path, remedy, dtype
        try:
            # Python closes the file when the last reader has released it.
            self._file = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise InputError(
                f"{path} is missing, and the manifest lists it: {self._remedy}"
            ) from error
        size = os.fstat(self._file.fileno()).st_size
        if size != info.bytes:
            self._refuse(f"has {size} bytes, not the manifest's {info.bytes}")
        try:
            np.lib.format.read_magic(self._file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(self._file)
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}): {self._remedy}") from error
        self._offset = self._file.tell()
        end = self._offset + length * self._type.itemsize
        if shape != (length,) or dtype != self._type or end != size:
            self._refuse(f"has {dtype} {shape}, not {self._type} ({length},)")

    def read(self, firsts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[Any]:
        """Reads ranges of values and concatenates them; adjacent ranges are read together.

        Args:
            firsts: The index of the first value of each range.
            counts: The number of values of each range.

        Raises:
            InputError: The file became shorter.
        """
        ends = firsts + counts
        values = np.empty(int(counts.sum()), dtype=self._type)
        content = memoryview(values.view(np.uint8))  # type: ignore[arg-type]
        breaks = np.flatnonzero(firsts[1:] != ends[:-1]) + 1
        filled = 0
        for begin, stop in zip([0, *breaks], [*breaks, len(firsts)], strict=True):
            if begin == stop:
                continue
            size = int(ends[stop - 1] - firsts[begin]) * self._type.itemsize
            place = self._offset + int(firsts[begin]) * self._type.itemsize
            self._read_into(content[filled : filled + size], place)
            filled += size
        return values

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _read_into(self, content: memoryview, place: int) -> None:
        filled = 0
        while filled < len(content):
            count = os.preadv(self._file.fileno(), [content[filled:]], place + filled)
            if not count:
                self._refuse(f"ends before byte {place + len(content)}")
            filled += count

    def _refuse(self, fault: str) -> None:
        raise InputError(f"{self._path} {fault}: {self._remedy}")


class ArrayWriter:
    """A `.npy` file to which values are appended; it has a temporary name until it is finished."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        """Opens a temporary file.

        Args:
            path: The final name.
            dtype: The type of the values, little-endian.
        """
        self.count = 0
        self._path, self._part, self._type = path, part_path(path), dtype
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
