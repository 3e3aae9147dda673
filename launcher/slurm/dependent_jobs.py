"""Submits several jobs, each of which waits for the one before it: all of them, or none."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher.slurm.client import SlurmError, cancel_job, submit_script

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DependentJob:
    """A script, and when its job may begin."""

    script: Path
    """An absolute path."""
    needs: Literal["ended", "succeeded"] = "ended"
    """When this job may begin: after the job before has ended in any way, or only after it has
    succeeded. In the second case SLURM cancels this job if the job before fails."""


def submit_in_order(
    scripts: Sequence[DependentJob], *, on_submit: Callable[[int, str], None]
) -> list[str]:
    """Submits jobs in order; if one cannot be submitted, those before it are cancelled.

    Args:
        scripts: The scripts, first to last.
        on_submit: Called after each submission with the position and the job's id.

    Returns:
        The ids of the jobs.

    Raises:
        SlurmError: A job cannot be submitted. No job is left in the queue; if one could not be
            cancelled, the message names it.
    """
    jobs: list[str] = []
    try:
        for position, script in enumerate(scripts):
            options = dependency_options(script, jobs[-1]) if jobs else []
            jobs.append(submit_script(script.script, options=options))
            on_submit(position, jobs[-1])
    except BaseException as error:  # Also an interrupt: the later jobs need the earlier ones.
        left = _cancel_all(jobs)
        if left and isinstance(error, SlurmError):
            ids = " ".join(left)
            raise SlurmError(
                f"{error}; jobs submitted before could not be cancelled: scancel {ids}"
            ) from error
        raise
    return jobs


def dependency_options(dependent: DependentJob, job: str) -> list[str]:
    """The options for sbatch with which a script waits for a job."""
    if dependent.needs == "ended":
        return [f"--dependency=afterany:{job}"]
    return [f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes"]


def _cancel_all(jobs: Sequence[str]) -> list[str]:
    """Cancels jobs, the newest first, so that none begins; returns those that remain."""
    left = []
    for job in reversed(jobs):
        try:
            cancel_job(job)
        except SlurmError as error:
            logger.warning("job %s was not cancelled: %s", job, error)
            left.append(job)
    return left
