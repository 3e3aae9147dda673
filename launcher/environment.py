"""What the launcher reads of the world around it: variables and cores. Read here, passed on."""

import os


def read_environment() -> dict[str, str]:
    """Copies the environment variables that this process was started with."""
    return dict(os.environ)


def count_usable_cores() -> int:
    """Counts the cores that this process may use, which under SLURM is fewer than there are."""
    return len(os.sched_getaffinity(0))
