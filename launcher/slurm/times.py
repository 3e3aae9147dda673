"""Reads the times that SLURM's commands print. Pure."""

from contextlib import suppress
from datetime import datetime

from bigtrain.config.cluster_rules import parse_slurm_time


def parse_moment(text: str) -> float | None:
    """Reads a local time such as 2025-01-31T12:00:00.

    Returns:
        Seconds since the epoch; None for another text, such as Unknown.
    """
    with suppress(ValueError):
        return datetime.fromisoformat(text).timestamp()
    return None


def parse_duration(text: str) -> int | None:
    """Reads a duration such as 1-02:30:00.

    Returns:
        Seconds; None for no limit, or for another text, such as NOT_SET.
    """
    with suppress(ValueError):
        return parse_slurm_time(text)
    return None
