"""Finds, submits and cancels the jobs of a run folder; one script serves all jobs of a run."""

import os
from collections.abc import Sequence
from pathlib import Path

from bigtrain.config.run_files import JOB_SCRIPT
from launcher.slurm.avoided_nodes import find_nodes_to_avoid
from launcher.slurm.client import QueuedJob, cancel_job, list_queue, submit_script


def find_active_jobs(run_dir: Path, *, known: Sequence[str] = ()) -> list[QueuedJob]:
    """The jobs of a run that wait, run or are ending, in order of their ids.

    Args:
        run_dir: The run folder.
        known: Ids of jobs of the run, whoever submitted them. Other jobs of this user are
            recognized by their script, even if nobody noted their id.

    Raises:
        SlurmError: SLURM's queue cannot be read.
    """
    script = str(script_of(run_dir))
    jobs = {job.job: job for job in (list_queue(known) if known else ())}
    own = list_queue(user=str(os.getuid()))
    jobs |= {job.job: job for job in own if job.command == script}
    active = (job for job in jobs.values() if job.is_active)
    return sorted(active, key=lambda job: (len(job.job), job.job))


def submit_successor(run_dir: Path, job: str) -> str:
    """Submits the next job of a chain, which begins when a job has ended, however it ends.

    A job has one successor: if it is in the queue already, nothing is submitted.

    Args:
        run_dir: The run folder, with the script of its jobs.
        job: The id of the job that runs now.

    Returns:
        The id of the successor.

    Raises:
        SlurmError: SLURM does not take it, or does not answer.
        OSError: There is no script in the run folder.
    """
    successors = find_successors(run_dir, job)
    if successors:
        return successors[0]
    return submit_again(run_dir, options=[f"--dependency=afterany:{job}"])


def submit_again(run_dir: Path, *, options: Sequence[str] = ()) -> str:
    """Submits the script of a run again, without the nodes that are to be avoided now.

    Args:
        run_dir: The run folder, with the script of its jobs.
        options: More options for sbatch.

    Returns:
        The job's id.

    Raises:
        SlurmError: SLURM does not take it, or does not answer.
        OSError: There is no script in the run folder.
    """
    script = script_of(run_dir)
    avoided = find_nodes_to_avoid(script)
    if avoided.failed:
        # The option of a command line replaces the one in the script.
        options = [*options, f"--exclude={','.join(avoided)}"]
    return submit_script(script, options=options)


def find_successors(run_dir: Path, job: str) -> list[str]:
    """The ids of the run's jobs that wait in the queue, besides ``job``."""
    waiting = (each for each in find_active_jobs(run_dir) if each.state == "PENDING")
    return [each.job for each in waiting if each.job != job]


def cancel_successors(run_dir: Path, job: str) -> list[str]:
    """Cancels the run's jobs that wait in the queue, besides ``job``; returns their ids."""
    successors = find_successors(run_dir, job)
    for successor in successors:
        cancel_job(successor)
    return successors


def script_of(run_dir: Path) -> Path:
    """The batch script of a run, as SLURM knows it: an absolute path."""
    return Path(os.path.abspath(run_dir)) / JOB_SCRIPT  # noqa: PTH100 - links are not resolved
