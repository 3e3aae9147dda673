"""The tables with which duplicates are found: little-endian numbers, one row per document.

Tasks write them row by row; later they are memory-mapped and read in parts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEYS_AT_ONCE = 1 << 24
"""The number of rows that are sorted in memory together."""

Keys = NDArray[np.uint64]
"""[documents, columns]; keys are hashes, so their bits are uniformly distributed."""


def open_table(path: Path, *, dtype: str, columns: int) -> NDArray[Any]:
    """Maps a table into memory; its pages are read when they are used.

    Returns:
        [documents, columns].
    """
    if not path.stat().st_size:
        return np.zeros((0, columns), np.dtype(dtype))
    return np.memmap(path, dtype=dtype, mode="r").reshape(-1, columns)


def gather_rows(
    tables: Sequence[Keys], *, column: int, part: int, parts: int
) -> tuple[Keys, NDArray[np.int64]]:
    """Collects the rows whose key in `column`, modulo `parts`, is `part`.

    Returns:
        The rows, `[chosen, columns]`, and the numbers of their documents, `[chosen]`, ascending.
    """
    rows, places, start = [], [], 0
    for table in tables:
        chosen = np.flatnonzero(table[:, column] % np.uint64(parts) == part)
        rows.append(np.asarray(table[chosen]))
        places.append(chosen + start)
        start += len(table)
    return np.concatenate(rows), np.concatenate(places)
