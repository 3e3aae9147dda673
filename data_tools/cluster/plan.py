"""The SLURM jobs that a data job still needs, in order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

CLUSTER_FOLDER = "cluster"
"""Subfolder of the job's folder: the scripts, the logs, and the ids of the jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedJob:
    """A job, or an array of parts."""

    name: str
    title: str
    arguments: tuple[str, ...]
    """The words after ``bigtrain data``: the command and its options."""
    operands: tuple[str, ...] = ()
    """The words after the options."""
    parts: tuple[int, ...] | None = None
    needs: Literal["ended", "succeeded"] = "ended"
    """When the job may begin: after the job before has ended in any way, or only after it has
    succeeded. A job that checks what is missing also begins after a failure, to name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayPlan:
    """The jobs that a data job still needs, and where they write."""

    command: str
    """shard or clean."""
    out: Path
    """The output folder, absolute."""
    folder: Path
    """The job's folder in `out`, with the completion markers."""
    jobs: tuple[PlannedJob, ...]
    """Empty if nothing is left to do."""
    num_parts: int
    num_tasks: int
    num_done: int
    """Tasks of the job, and how many are finished."""
    result: str
    """The file in `out` that is written last."""
    is_new: bool
    """Whether the job has not begun in its folder."""
    claim: Callable[[], None]
    """Writes the job file, so that only this job can continue in the folder."""


class _Numbered(Protocol):
    @property
    def number(self) -> int: ...


def choose_num_parts(wanted: int, num_tasks: int) -> int:
    """The number of parts: at most one for each task of the job."""
    return min(wanted, num_tasks)


def parts_of(tasks: Sequence[_Numbered], num_parts: int) -> tuple[int, ...]:
    """The parts that some tasks belong to, ascending."""
    return tuple(sorted({task.number % num_parts for task in tasks}))
