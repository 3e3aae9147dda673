"""Checks that no job of a run waits or runs on a cluster, before another launch uses its folder."""

import logging
from functools import partial
from pathlib import Path

from bigtrain.runs.job_file import JobRecord, load_job, update_job
from bigtrain.runs.run_lock import RunBusyError

log = logging.getLogger(__name__)


def check_no_job(run_dir: Path, *, only_known: bool = False) -> None:
    """Checks that no job of a run waits or runs on a cluster.

    A job that was submitted but not noted in ``job.json``, because `launch` was killed between the
    two, is noted now.

    Args:
        run_dir: The run folder.
        only_known: Whether to ask SLURM only if ``job.json`` says that a job may be there.

    Raises:
        RunBusyError: There is one.
        SlurmError: There may be one, and SLURM does not answer.
    """
    from launcher.slurm.client import SlurmMissingError
    from launcher.slurm.submit import find_active_jobs

    record = load_job(run_dir)
    is_known = record is not None and record.scheduler == "slurm" and record.state != "ended"
    if only_known and not is_known:
        return
    try:
        known = record.jobs if record is not None and record.scheduler == "slurm" else ()
        active = find_active_jobs(run_dir, known=known)
    except SlurmMissingError:
        if not only_known:
            raise
        log.warning(
            "%s: job.json names jobs of a SLURM cluster, and this machine belongs to none; make "
            "sure that none of them runs",
            run_dir,
        )
        return
    if not active:
        return
    for job in active if record is not None else ():
        update_job(run_dir, partial(_note, job=job.job))
    first = active[0]
    reason = f" ({first.reason})" if first.reason else ""
    raise RunBusyError(
        f"{run_dir}: job {first.job} of this run is {first.state}{reason}; wait for it, end it "
        f"with `bigtrain stop {run_dir}` or `scancel {first.job}`, or give this run another name"
    )


def _note(record: JobRecord, job: str) -> JobRecord:
    return record.with_job(job)
