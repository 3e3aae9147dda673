"""Runs a cleaning job in parts, which several processes, on any machines, run at the same time.

Which document is a duplicate depends on all documents before it, so a part cannot be cleaned alone.
A job is four passes, each of which needs the one before:

1. `scan`, in parts: applies the rules, and writes the candidates and the tables of hashes;
2. `duplicates`, in one process: finds the duplicates among all candidates, in input order;
3. `write`, in parts: writes the result without the duplicates;
4. `seal`, in one process: checks that all is there, and writes the report.

These are the same functions, on the same tasks and files, as in a job without parts, so the result
has the same bytes.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from data_tools.cleaning.clean_config import CleanConfig
from data_tools.cleaning.clean_corpus import CleanResult, finish_tasks, scan_tasks, seal_job
from data_tools.cleaning.clean_job import CleanJob, claim_folder, plan_job
from data_tools.cleaning.clean_task import CleanTask, read_num_candidates
from data_tools.cleaning.cleaned_files import part_name
from data_tools.cleaning.find_duplicates import find_duplicates, load_duplicates
from data_tools.errors import InputError
from data_tools.jobs.array_part import ArrayPart, describe_missing
from data_tools.jobs.output_folder import only_writer, removing_parts
from data_tools.jobs.run_tasks import in_order
from data_tools.jobs.task_locks import (
    lock_job_file,
    lock_tasks,
    read_part_count,
    write_part_count,
)
from data_tools.jobs.workers import open_pool


class CleanPass(StrEnum):
    """The passes of a cleaning job, in their order."""

    scan = "scan"
    duplicates = "duplicates"
    write = "write"
    seal = "seal"

    @property
    def has_parts(self) -> bool:
        """Whether several processes may run it at the same time."""
        return self in {CleanPass.scan, CleanPass.write}


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass did; `done` counts tasks, of which `fresh` were not done before."""

    out: Path
    done: int
    fresh: int
    tasks_of_job: int


def find_unscanned(job: CleanJob) -> list[CleanTask]:
    """The tasks that `scan` must run, for the first time or again."""
    _, unfinished = job.find_finished(job.tasks)
    if not unfinished:
        return []
    # Without the codes, the tables of all tasks are needed to find them, also of finished ones.
    needed = job.tasks if load_duplicates(job.settings) is None else unfinished
    return job.find_scanned(needed)[1]


def scan_part(config: CleanConfig, part: ArrayPart) -> PassResult:
    """Runs the pass `scan` for some tasks.

    Raises:
        InputError: As `clean_corpus` does, or another process runs one of the tasks.
    """
    job = plan_job(config)
    mine = part.choose(job.tasks)
    with lock_tasks(job.folder, [task.number for task in mine]):
        with lock_job_file(job.folder):
            claim_folder(job)
            write_part_count(job.folder, part.count)
        missing = part.choose(find_unscanned(job))
        with (
            removing_parts(_parts_of(mine, job)),
            open_pool(min(config.workers, len(missing))) as pool,
        ):
            scan_tasks(job, missing, pool)
    return PassResult(job.out, len(mine), len(missing), len(job.tasks))


def find_all_duplicates(config: CleanConfig) -> PassResult:
    """Runs the pass `duplicates`.

    Raises:
        InputError: The job has not begun, or a task is not scanned.
    """
    job = _plan_begun_job(config)
    with only_writer(job.out):
        _, unfinished = job.find_finished(job.tasks)
        is_needed = bool(unfinished) and load_duplicates(job.settings) is None
        if is_needed:
            scanned, missing = job.find_scanned(job.tasks)
            if missing:
                raise InputError(_render_missing(job, missing, "scanned", CleanPass.scan))
            candidates = sum(marker.candidates for marker in scanned.values())
            with removing_parts([(job.folder, "")]):
                find_duplicates(job.tasks, job.settings, candidates=candidates)
    count = len(job.tasks)
    return PassResult(job.out, count, count if is_needed else 0, count)


def write_part(config: CleanConfig, part: ArrayPart) -> PassResult:
    """Runs the pass `write` for some tasks.

    Raises:
        InputError: The job has not begun, its duplicates are not found, or a task is not scanned.
    """
    job = _plan_begun_job(config)
    mine = part.choose(job.tasks)
    with lock_tasks(job.folder, [task.number for task in mine]):
        with lock_job_file(job.folder):
            claim_folder(job)
            write_part_count(job.folder, part.count)
        _, missing = job.find_finished(mine)
        if missing:
            _, unscanned = job.find_scanned(missing)
            if unscanned:
                raise InputError(_render_missing(job, unscanned, "scanned", CleanPass.scan))
            codes = load_duplicates(job.settings)
            if codes is None:
                raise InputError(
                    f"{job.out}: the duplicates are not found yet: run the same command with "
                    "--only duplicates first"
                )
            sizes = [read_num_candidates(task, job.settings) for task in job.tasks]
            codes_of_task = np.split(codes, np.cumsum(sizes)[:-1])
            with (
                removing_parts(_parts_of(mine, job)),
                open_pool(min(config.workers, len(missing))) as pool,
            ):
                finish_tasks(job, missing, codes_of_task, pool)
    return PassResult(job.out, len(mine), len(missing), len(job.tasks))


def seal_parts(config: CleanConfig) -> CleanResult:
    """Runs the pass `seal`.

    Raises:
        InputError: The job has not begun, or a task is not finished.
    """
    started = time.monotonic()
    job = _plan_begun_job(config)
    with only_writer(job.out):
        claim_folder(job)
        done, missing = job.find_finished(job.tasks)
        if missing:
            unscanned = find_unscanned(job)
            if unscanned:
                raise InputError(_render_missing(job, unscanned, "scanned", CleanPass.scan))
            raise InputError(_render_missing(job, missing, "written", CleanPass.write))
        with removing_parts([(job.out, ""), (job.folder, "")]):
            markers = in_order(job.tasks, done)
            return seal_job(job, markers, already_done=job.is_sealed, started=started)


def _plan_begun_job(config: CleanConfig) -> CleanJob:
    job = plan_job(config)
    if not job.has_begun:
        raise InputError(
            f"no cleaning job in {job.out}: begin with the same command and --only scan"
        )
    return job


def _parts_of(tasks: Sequence[CleanTask], job: CleanJob) -> list[tuple[Path, str]]:
    """The files that tasks write, as pairs of a folder and the beginning of their names."""
    places = [(job.folder, f"{task.number:06d}.") for task in tasks]
    return places + [(job.out, part_name(task.number)) for task in tasks]


def _render_missing(
    job: CleanJob, missing: Sequence[CleanTask], verb: str, needed: CleanPass
) -> str:
    count = read_part_count(job.folder) or len(job.tasks)
    names, parts = describe_missing([task.number for task in missing], count)
    return (
        f"{job.out}: {len(missing)} of {len(job.tasks)} tasks are not {verb} ({names}): run the "
        f"same command again with --only {needed} --task {parts}, or once without --only for all "
        "that is missing"
    )
