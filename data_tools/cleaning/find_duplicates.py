"""Finds the duplicates of a job: one code per candidate, stored in a file while the job runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.cleaning.clean_task import (
    EXACT_CODE,
    NEAR_CODE,
    TASKS_FOLDER,
    CleanSettings,
    CleanTask,
    open_tables,
)
from data_tools.cleaning.exact_duplicates import find_exact_duplicates
from data_tools.cleaning.near_duplicates import find_near_duplicates
from data_tools.files import write_file

Codes = NDArray[np.uint8]


def duplicates_path(settings: CleanSettings) -> Path:
    """The file with the codes, which exists while a job runs."""
    return settings.out / TASKS_FOLDER / "duplicates"


def find_duplicates(
    tasks: Sequence[CleanTask], settings: CleanSettings, *, candidates: int
) -> Codes:
    """Finds duplicates among all candidates, in the order of tasks, and writes the codes.

    Returns:
        [candidates], with a code for each.
    """
    codes = np.zeros(candidates, np.uint8)
    tables = {name: open_tables(tasks, settings, name) for name in settings.tables}
    if "digests" in tables:
        codes[find_exact_duplicates(tables["digests"])] = EXACT_CODE
    if "bands" in tables:
        similar = find_near_duplicates(
            tables["bands"],
            tables["values"],
            skipped=codes == EXACT_CODE,
            threshold=settings.config.near_duplicates.threshold,
        )
        codes[similar] = NEAR_CODE
    write_file(duplicates_path(settings), codes.tobytes())
    return codes


def load_duplicates(settings: CleanSettings) -> Codes | None:
    """Reads the codes; None if they must be found, for the first time or again."""
    path = duplicates_path(settings)
    return np.fromfile(path, np.uint8) if path.is_file() else None
