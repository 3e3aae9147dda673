"""The sharding job: plans tasks, runs those not done yet, and seals the result with manifests.

The same job writes the same bytes, for any number of workers or machines, also if it was killed and
continued.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_tools.jobs.array_part import ArrayPart
from data_tools.jobs.output_folder import only_writer, removing_parts
from data_tools.jobs.run_tasks import in_order, run_tasks
from data_tools.jobs.task_locks import lock_job_file, lock_tasks, remove_locks, write_part_count
from data_tools.jobs.workers import open_pool
from data_tools.reading.standard_input import remove_stale_input
from data_tools.sharding.plan_tasks import ShardTask
from data_tools.sharding.prepare_job import PreparedJob, prepare_job
from data_tools.sharding.seal_job import (
    is_sealed,
    seal_folder,
    skipped_by_reason,
    write_manifests,
)
from data_tools.sharding.shard_job import TASKS_FOLDER, Job, Split, claim_folder
from data_tools.sharding.shard_markers import ShardMarker, find_done_tasks
from data_tools.sharding.shard_options import ShardOptions, check_positive
from data_tools.sharding.shard_task import run_task

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The result of a job over all splits; `seconds` and the rate are those of this run only."""

    folders: tuple[Path, ...]
    documents: int
    documents_of_split: dict[Split, int]
    tokens: int
    bytes: int
    skipped: int
    skipped_by_reason: dict[str, int]
    tasks: int
    """The number of tasks that these counts include."""
    tasks_of_job: int
    seconds: float
    tokens_per_second: float
    already_done: bool


def shard_corpus(
    patterns: Sequence[str],
    *,
    tokenizer: Path,
    out: Path,
    options: ShardOptions | None = None,
    workers: int = 1,
    part: ArrayPart | None = None,
) -> ShardResult:
    """Turns text into token tars in `out/train` and `out/validation`.

    Args:
        patterns: Folders, globs, files and URLs, as `find_sources` takes them; or only `-`: JSON
            Lines on standard input.
        tokenizer: The tokenizer file; it is copied into the corpus folders.
        out: The job's folder; if it has the same job unfinished, that is continued.
        options: How the text is read, split, cut and ordered.
        workers: Number of processes; the result is the same for any number.
        part: Runs only these tasks, while other processes run others, and writes no manifest.

    Raises:
        InputError: There is no text or no tokenizer, the tokenizer cannot be exported, `out` has
            another job, or another process is writing there.
    """
    started = time.monotonic()
    check_positive("workers", workers)
    with prepare_job(
        patterns, tokenizer=tokenizer, out=out, options=options, reads_stdin=part is None
    ) as prepared:
        if part:
            return _run_part(prepared, part, workers=workers, started=started)
        return _run_all(prepared, workers=workers, started=started)


def seal_corpus(out: Path) -> ShardResult:
    """Writes the manifests of a job whose tasks were run by several processes.

    Raises:
        InputError: There is no job in `out`, a task is missing, or a process is still writing.
    """
    started = time.monotonic()
    job, markers, sealed = seal_folder(out)
    return _result(markers, [], job, started=started, already_done=sealed)


def _run_all(prepared: PreparedJob, *, workers: int, started: float) -> ShardResult:
    tasks, job = prepared.tasks, prepared.job
    with only_writer(job.out):
        claim_folder(job, prepared.tokenizer)
        remove_stale_input(job.folder)
        with removing_parts([(job.out / folder, "") for folder in (TASKS_FOLDER, *job.splits)]):
            markers, fresh = _run_missing(tasks, job, workers)
        done = not fresh and is_sealed(job)
        if not done:
            write_manifests(markers, job)
        remove_locks(job.folder)
    return _result(markers, fresh, job, started=started, already_done=done)


def _run_part(
    prepared: PreparedJob, part: ArrayPart, *, workers: int, started: float
) -> ShardResult:
    mine, job = part.choose(prepared.tasks), prepared.job
    with lock_tasks(job.folder, [task.number for task in mine]):
        with lock_job_file(job.folder):
            claim_folder(job, prepared.tokenizer)
            write_part_count(job.folder, part.count)
        with removing_parts(_parts_of(mine, job)):
            markers, fresh = _run_missing(mine, job, workers)
    return _result(markers, fresh, job, started=started, already_done=not fresh)


def _parts_of(tasks: Sequence[ShardTask], job: Job) -> list[tuple[Path, str]]:
    """The files that tasks write, as pairs of a folder and the beginning of their names."""
    parts = [(job.folder, f"{task.number:06d}.") for task in tasks]
    for split in job.splits:
        parts += [(job.out / split, f"{job.choices.name}-{task.number:06d}.") for task in tasks]
    return parts


def _run_missing(
    tasks: Sequence[ShardTask], job: Job, workers: int
) -> tuple[list[ShardMarker], list[ShardMarker]]:
    """Runs every task that is not done; returns all markers in order, and those of this run."""
    done, missing = find_done_tasks(tasks, job)
    if not missing:
        return in_order(tasks, done), []
    logger.info("%d of %d tasks to do", len(missing), len(tasks))
    with open_pool(min(workers, len(missing))) as pool:
        fresh = run_tasks("sharding", partial(run_task, job=job), missing, pool=pool)
    return in_order(tasks, done, fresh), list(fresh.values())


def _result(
    markers: Sequence[ShardMarker],
    fresh: Sequence[ShardMarker],
    job: Job,
    *,
    started: float,
    already_done: bool,
) -> ShardResult:
    seconds = time.monotonic() - started
    now = sum(shard.tokens for marker in fresh for shard in marker.shards.values())
    skipped = skipped_by_reason(markers)
    counts = [count for marker in markers for count in marker.sources]
    return ShardResult(
        folders=tuple(job.out / split for split in job.splits),
        documents=sum(count.documents for count in counts),
        documents_of_split={
            split: sum(m.shards[split].docs for m in markers if split in m.shards)
            for split in job.splits
        },
        tokens=sum(shard.tokens for marker in markers for shard in marker.shards.values()),
        bytes=sum(count.bytes for count in counts),
        skipped=sum(skipped.values()),
        skipped_by_reason=skipped,
        tasks=len(markers),
        tasks_of_job=job.choices.tasks,
        seconds=seconds,
        tokens_per_second=now / seconds,
        already_done=already_done,
    )
