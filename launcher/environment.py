"""Reads the environment variables and the number of cores, for the rest of the launcher."""

import os


def read_environment() -> dict[str, str]:
    """Copies the environment variables of this process."""
    return dict(os.environ)


def count_usable_cores() -> int:
    """Counts the cores that this process may use; under SLURM they may be fewer than all cores."""
    return len(os.sched_getaffinity(0))
