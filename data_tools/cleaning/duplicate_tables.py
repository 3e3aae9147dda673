"""What duplicates are found by: tables of plain little-endian numbers, one row per document.

Tasks write them, row by row; then they are read as they lie on disk, a part at a time.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.files import finish_file, part_path

KEYS_AT_ONCE = 1 << 24
"""Rows that are sorted in memory together."""

Keys = NDArray[np.uint64]
"""[documents, columns]; the first bits of a key are as good as random."""


class TableWriter:
    """Writes the rows of a table; it gets its name when all is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = part_path(path)
        self._file = self._part.open("wb", buffering=1 << 20)

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if kind is None:
            finish_file(self._part, self._path)
        else:
            self._part.unlink(missing_ok=True)

    def add(self, row: bytes) -> None:
        """Adds the bytes of one document."""
        self._file.write(row)


def open_table(path: Path, *, dtype: str, columns: int) -> NDArray[Any]:
    """Maps a table; pages come from disk when they are touched.

    Returns:
        [documents, columns].
    """
    if not path.stat().st_size:
        return np.zeros((0, columns), np.dtype(dtype))
    return np.memmap(path, dtype=dtype, mode="r").reshape(-1, columns)


def gather_rows(
    tables: Sequence[Keys], *, column: int, part: int, parts: int
) -> tuple[Keys, NDArray[np.int64]]:
    """Collects the rows whose key in `column` falls in one of `parts` parts.

    Returns:
        The rows, [chosen, columns], and the number of their documents, [chosen], ascending.
    """
    rows, places, start = [], [], 0
    for table in tables:
        chosen = np.flatnonzero(table[:, column] % np.uint64(parts) == part)
        rows.append(np.asarray(table[chosen]))
        places.append(chosen + start)
        start += len(table)
    return np.concatenate(rows), np.concatenate(places)
