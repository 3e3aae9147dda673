"""The sharding job: plans tasks, runs those not done yet, and seals the result with manifests.

The same job writes the same bytes, for any number of workers or machines, also if it was killed and
continued.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_tools.errors import InputError
from data_tools.jobs.output_folder import only_writer, removing_parts
from data_tools.jobs.run_tasks import find_done, in_order, run_tasks
from data_tools.jobs.task_sizes import choose_task_bytes
from data_tools.jobs.workers import open_pool
from data_tools.reading.documents import Document, Skipped
from data_tools.reading.left_out_files import LeftOut
from data_tools.reading.read_pieces import read_piece
from data_tools.reading.standard_input import remove_stale_input, standard_input
from data_tools.reading.text_sources import (
    STANDARD_INPUT,
    TextSource,
    find_sources,
    hash_sources,
)
from data_tools.sharding.plan_tasks import ShardTask, plan_tasks
from data_tools.sharding.seal_job import (
    is_sealed,
    seal_folder,
    skipped_by_reason,
    write_manifests,
)
from data_tools.sharding.shard_job import (
    TASKS_FOLDER,
    Job,
    JobChoices,
    Split,
    claim_folder,
    is_claimed,
    make_job,
    own_files,
)
from data_tools.sharding.shard_markers import ShardMarker, load_shard_marker
from data_tools.sharding.shard_options import ShardOptions, check_positive
from data_tools.sharding.shard_task import choose_split, run_task
from data_tools.sharding.task_locks import lock_job_file, lock_tasks, remove_locks, write_part_count
from data_tools.tokenizer import Tokenizer, check_exportable, load_tokenizer
from data_tools.tokenizer.build_tokenizer import files_of_tokenizer

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


@dataclass(frozen=True, slots=True)
class ArrayPart:
    """Some tasks of a job: those whose number modulo `count` is `index`."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError(
                f"--task {self.index}/{self.count} must be from 0/{self.count} to "
                f"{self.count - 1}/{self.count}: the first part is 0"
            )


@dataclass(frozen=True, slots=True)
class _Text:
    """The input of a job, and its hash."""

    sources: list[TextSource]
    digest: str
    left_out: LeftOut


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
    options = options or ShardOptions()
    check_positive("workers", workers)
    loaded = load_tokenizer(tokenizer)
    check_exportable(loaded)
    own = [*own_files(out, loaded.file_name), *files_of_tokenizer(tokenizer)]
    with _find_text(patterns, out, options=options, own=own, part=part) as text:
        tasks, job = _plan_job(text, loaded, out, options)
        if not is_claimed(job):
            _check_splits(tasks, job)
        if part:
            return _run_part(tasks, job, loaded.content, part, workers=workers, started=started)
        return _run_all(tasks, job, loaded.content, workers=workers, started=started)


def seal_corpus(out: Path) -> ShardResult:
    """Writes the manifests of a job whose tasks were run by several processes.

    Raises:
        InputError: There is no job in `out`, a task is missing, or a process is still writing.
    """
    started = time.monotonic()
    job, markers, sealed = seal_folder(out)
    return _result(markers, [], job, started=started, already_done=sealed)


@contextmanager
def _find_text(
    patterns: Sequence[str],
    out: Path,
    *,
    options: ShardOptions,
    own: Sequence[Path],
    part: ArrayPart | None,
) -> Iterator[_Text]:
    left_out = LeftOut()
    if STANDARD_INPUT not in patterns:
        sources = find_sources(
            patterns,
            exclude=options.exclude,
            folder_glob=options.folder_glob,
            own=own,
            left_out=left_out,
        )
        yield _Text(sources, hash_sources(sources), left_out)
        return
    if len(patterns) > 1 or part:
        raise InputError("standard input (-) must be the only input, and not with --task")
    with standard_input(out / TASKS_FOLDER) as (source, sha256):
        yield _Text([source], sha256, left_out)


def _plan_job(
    text: _Text, tokenizer: Tokenizer, out: Path, options: ShardOptions
) -> tuple[list[ShardTask], Job]:
    task_bytes = options.task_bytes or choose_task_bytes(text.sources)
    shuffle_seed = options.seed if options.shuffle else None
    tasks = plan_tasks(text.sources, task_bytes=task_bytes, shuffle_seed=shuffle_seed)
    choices = JobChoices(
        max_document_bytes=options.reading.max_document_bytes,
        name=options.name,
        on_invalid=options.reading.on_invalid,
        pack_tokens=options.pack_tokens,
        seed=options.seed,
        sentences=options.sentences,
        shuffle=options.shuffle,
        task_bytes=task_bytes,
        tasks=len(tasks),
        text=text.digest,
        text_field=options.reading.text_field,
        tokenizer=tokenizer.sha256,
        tokenizer_file=tokenizer.file_name,
        validation_percent=options.validation_percent,
    )
    return tasks, make_job(out, choices, text.left_out.record())


def _check_splits(tasks: Sequence[ShardTask], job: Job) -> None:
    """Checks, before the work begins, that each split will have a document."""
    choices, wanted = job.choices, set(job.splits)
    documents, skipped = 0, dict[str, int]()
    for part in (part for task in tasks for part in task.parts):
        for found in read_piece(part.piece, choices.reading):
            if isinstance(found, Document):
                documents += 1
                content = found.text.encode("utf-8")
                percent, seed = choices.validation_percent, choices.seed
                wanted.discard(choose_split(content, percent=percent, seed=seed))
                if not wanted:
                    return
            elif isinstance(found, Skipped):
                skipped[found.reason] = skipped.get(found.reason, 0) + 1
    if not documents:
        why = ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()))
        raise InputError(f"there is no document in the text ({why or 'no line'}): give other files")
    change = "lower" if "train" in wanted else "raise"
    raise InputError(
        f"none of {documents} documents would be in the {wanted.pop()} split: {change} "
        f"--validation-percent from {choices.validation_percent:g}, or set it to 0"
    )


def _run_all(
    tasks: Sequence[ShardTask], job: Job, tokenizer: bytes, *, workers: int, started: float
) -> ShardResult:
    with only_writer(job.out):
        claim_folder(job, tokenizer)
        remove_stale_input(job.out / TASKS_FOLDER)
        with removing_parts([(job.out / folder, "") for folder in (TASKS_FOLDER, *job.splits)]):
            markers, fresh = _run_missing(tasks, job, workers)
        done = not fresh and is_sealed(job)
        if not done:
            write_manifests(markers, job)
        remove_locks(job.out)
    return _result(markers, fresh, job, started=started, already_done=done)


def _run_part(
    tasks: Sequence[ShardTask],
    job: Job,
    tokenizer: bytes,
    part: ArrayPart,
    *,
    workers: int,
    started: float,
) -> ShardResult:
    mine = [task for task in tasks if task.number % part.count == part.index]
    with lock_tasks(job.out, [task.number for task in mine]):
        with lock_job_file(job.out):
            claim_folder(job, tokenizer)
            write_part_count(job, part.count)
        with removing_parts(_parts_of(mine, job)):
            markers, fresh = _run_missing(mine, job, workers)
    return _result(markers, fresh, job, started=started, already_done=not fresh)


def _parts_of(tasks: Sequence[ShardTask], job: Job) -> list[tuple[Path, str]]:
    """The files that tasks write, as pairs of a folder and the beginning of their names."""
    parts = [(job.out / TASKS_FOLDER, f"{task.number:06d}.") for task in tasks]
    for split in job.splits:
        parts += [(job.out / split, f"{job.choices.name}-{task.number:06d}.") for task in tasks]
    return parts


def _run_missing(
    tasks: Sequence[ShardTask], job: Job, workers: int
) -> tuple[list[ShardMarker], list[ShardMarker]]:
    """Runs every task that is not done; returns all markers in order, and those of this run."""
    done, missing = find_done(tasks, lambda task: load_shard_marker(task.number, job))
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
