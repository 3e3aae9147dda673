"""The cleaning job: scans the input, finds duplicates in all of it, writes parts and a report.

The same job writes the same bytes, for any number of workers, also if it was killed and continued.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data_tools.cleaning.clean_config import CleanConfig
from data_tools.cleaning.clean_job import CleanJob, claim_folder, plan_job, seal
from data_tools.cleaning.clean_task import CleanMarker, CleanSettings, CleanTask, finish, scan
from data_tools.cleaning.document_counts import Counts
from data_tools.cleaning.find_duplicates import Codes, find_duplicates, load_duplicates
from data_tools.jobs.output_folder import only_writer, removing_parts
from data_tools.jobs.run_tasks import in_order, run_tasks
from data_tools.jobs.workers import WorkerPool, open_pool

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CleanResult:
    """The result of a cleaning job; `seconds` is the time of this run only."""

    out: Path
    counts: Counts
    parts: int
    input_bytes: int
    seconds: float
    already_done: bool


def clean_corpus(config: CleanConfig) -> CleanResult:
    """Cleans documents into `config.out`: parts of JSON Lines, and report.json.

    Raises:
        InputError: There is no input, an invalid line with `on_invalid=stop`, another job in the
            folder, or another process that writes there.
    """
    started = time.monotonic()
    job = plan_job(config)
    with only_writer(job.out):
        claim_folder(job)
        with removing_parts([(job.out, ""), (job.folder, "")]):
            markers, fresh = _run_missing(job)
        return seal_job(job, markers, already_done=not fresh and job.is_sealed, started=started)


def seal_job(
    job: CleanJob, markers: Sequence[CleanMarker], *, already_done: bool, started: float
) -> CleanResult:
    """Writes the report of a job whose tasks are all finished; call it inside `only_writer`.

    Args:
        job: The job.
        markers: The markers of all tasks, in order.
        already_done: Whether the report is there and need not be written.
        started: The start of this run, as `time.monotonic` gives it.
    """
    counts = seal(job, markers, already_done=already_done)
    return CleanResult(
        out=job.out,
        counts=counts,
        parts=sum(marker.part is not None for marker in markers),
        input_bytes=sum(task.bytes for task in job.tasks),
        seconds=time.monotonic() - started,
        already_done=already_done,
    )


def scan_tasks(
    job: CleanJob, tasks: Sequence[CleanTask], pool: WorkerPool | None
) -> dict[int, CleanMarker]:
    """Scans the tasks that are not scanned yet.

    Returns:
        The scans of all these tasks, by their numbers.
    """
    scanned, missing = job.find_scanned(tasks)
    function = partial(scan, settings=job.settings)
    return scanned | run_tasks("cleaning", function, missing, pool=pool)


def finish_tasks(
    job: CleanJob,
    tasks: Sequence[CleanTask],
    codes_of_task: Sequence[Codes],
    pool: WorkerPool | None,
) -> dict[int, CleanMarker]:
    """Writes the parts of some scanned tasks.

    Args:
        job: The job.
        tasks: The tasks to finish.
        codes_of_task: The codes of the candidates of every task of the job, by its number.
        pool: The pool of processes; None: this process.
    """
    work = [_ScannedTask(task, codes_of_task[task.number]) for task in tasks]
    return run_tasks("writing", partial(_finish, settings=job.settings), work, pool=pool)


def _run_missing(job: CleanJob) -> tuple[list[CleanMarker], list[CleanMarker]]:
    """Runs every task that is not done; returns all markers in order, and those of this run."""
    tasks, settings = job.tasks, job.settings
    done, missing = job.find_finished(tasks)
    if not missing:
        return in_order(tasks, done), []
    logger.info("%d of %d tasks to do", len(missing), len(tasks))
    codes = load_duplicates(settings)
    with open_pool(min(settings.config.workers, len(tasks))) as pool:
        scanned = scan_tasks(job, tasks if codes is None else missing, pool)
        ends = np.cumsum([marker.candidates for marker in in_order(tasks, done, scanned)])
        if codes is None:
            codes = find_duplicates(tasks, settings, candidates=int(ends[-1]))
        fresh = finish_tasks(job, missing, np.split(codes, ends[:-1]), pool)
    return in_order(tasks, done, fresh), list(fresh.values())


@dataclass(frozen=True, slots=True)
class _ScannedTask:
    """A task whose duplicates are known."""

    task: CleanTask
    codes: Codes

    @property
    def number(self) -> int:
        return self.task.number

    @property
    def bytes(self) -> int:
        return self.task.bytes


def _finish(work: _ScannedTask, settings: CleanSettings) -> CleanMarker:
    return finish(work.task, settings, work.codes)
