"""The sharding job: plans tasks, runs those not done yet, and seals the result with manifests.

Whatever the number of workers or machines, and however often it was killed on the way, the same
job leaves the same bytes.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_tools.errors import InputError
from data_tools.files import only_writer, remove_parts
from data_tools.jobs.workers import open_pool, run_each
from data_tools.progress import show_progress
from data_tools.reading.documents import Document, ReadOptions, Skipped
from data_tools.reading.left_out_files import LeftOut
from data_tools.reading.read_pieces import read_piece
from data_tools.reading.standard_input import remove_stale_input, standard_input
from data_tools.reading.text_sources import STANDARD_INPUT, TextSource, find_sources, hash_sources
from data_tools.sharding.plan_tasks import MIB, ShardTask, choose_task_bytes, plan_tasks
from data_tools.sharding.seal_corpus import (
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
from data_tools.sharding.shard_task import choose_split, run_task
from data_tools.sharding.task_locks import note_parts, one_claimant, remove_locks, some_tasks
from data_tools.sharding.task_markers import TaskMarker, load_marker
from data_tools.tokenizer import check_exportable, load_tokenizer
from data_tools.tokenizer.build_tokenizer import files_of_tokenizer

DEFAULT_PACK_TOKENS = MIB
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What a sharding job made, over all splits; `seconds` and the rate are of this run alone."""

    folders: tuple[Path, ...]
    documents: int
    documents_of_split: dict[Split, int]
    tokens: int
    bytes: int
    skipped: int
    skipped_by_reason: dict[str, int]
    tasks: int
    """Tasks that these numbers are of."""
    tasks_of_job: int
    seconds: float
    tokens_per_second: float
    already_done: bool


@dataclass(frozen=True, slots=True)
class ArrayPart:
    """Which tasks of a job are meant: those whose number leaves `index` when divided by `count`."""

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
    """What a job reads, and a hash that changes with it."""

    sources: list[TextSource]
    digest: str
    left_out: LeftOut


def shard_corpus(
    patterns: Sequence[str],
    *,
    tokenizer: Path,
    out: Path,
    name: str = "tokens",
    folder_glob: str | None = None,
    exclude: Sequence[str] = (),
    validation_percent: float = 0.0,
    workers: int = 1,
    task_bytes: int | None = None,
    pack_tokens: int = DEFAULT_PACK_TOKENS,
    seed: int = 0,
    reading: ReadOptions | None = None,
    shuffle: bool = False,
    sentences: bool = False,
    part: ArrayPart | None = None,
) -> ShardResult:
    """Turns text into token tars in `out/train` and `out/validation`.

    Args:
        patterns: Folders, globs, files and URLs, as `find_sources` takes them; or `-` alone, JSON
            Lines on standard input.
        tokenizer: The tokenizer model; its bytes are copied beside the tars.
        out: The job's folder; one that holds the same job unfinished is continued.
        name: How the tars' names begin.
        folder_glob: Which files of a folder are text; None takes every known kind.
        exclude: Which files to leave out.
        validation_percent: Share of documents for validation, chosen by content; 0 makes none.
        workers: Processes; does not change the result.
        task_bytes: Input per task and so per tar; chosen from the amount of input by default.
        pack_tokens: A pack is closed with the document that brings it to this many tokens.
        seed: Chooses which documents are for validation, and the order of a shuffle.
        reading: Where the text is in a record, and what to do with invalid ones.
        shuffle: Puts pieces of 16 MiB of the whole job, and then the documents of each task, into
            an order by lot.
        sentences: Also writes where sentences start.
        part: Runs only some tasks, beside other processes that run others, and writes no manifest.

    Raises:
        InputError: No text, no tokenizer or one whose model could never be exported, another job
            in `out`, or another process writing there.
    """
    started = time.monotonic()
    reading = reading or ReadOptions()
    _check_options(name, validation_percent)
    _check_counts(
        {
            "workers": workers,
            "task size": task_bytes,
            "pack": pack_tokens,
            "longest document": reading.max_document_bytes,
        }
    )
    loaded = load_tokenizer(tokenizer)
    check_exportable(loaded)
    find = partial(
        find_sources,
        exclude=exclude,
        folder_glob=folder_glob,
        own=[*own_files(out, loaded.file_name), *files_of_tokenizer(tokenizer)],
    )
    with _find_text(patterns, out, find=find, part=part) as text:
        task_bytes = task_bytes or choose_task_bytes(text.sources)
        tasks = plan_tasks(
            text.sources, task_bytes=task_bytes, shuffle_seed=seed if shuffle else None
        )
        choices = JobChoices(
            max_document_bytes=reading.max_document_bytes,
            name=name,
            on_invalid=reading.on_invalid,
            pack_tokens=pack_tokens,
            seed=seed,
            sentences=sentences,
            shuffle=shuffle,
            task_bytes=task_bytes,
            tasks=len(tasks),
            text=text.digest,
            text_field=reading.text_field,
            tokenizer=loaded.sha256,
            tokenizer_file=loaded.file_name,
            validation_percent=validation_percent,
        )
        job = make_job(out, choices, text.left_out.record())
        if not is_claimed(job):
            _check_splits(tasks, job)
        if part:
            return _run_part(tasks, job, loaded.content, part, workers=workers, started=started)
        return _run_whole(tasks, job, loaded.content, workers=workers, started=started)


def seal_corpus(out: Path) -> ShardResult:
    """Writes the manifests of a job whose tasks were run part by part.

    Raises:
        InputError: There is no job in `out`, a task is missing, or somebody is still writing.
    """
    started = time.monotonic()
    job, markers, sealed = seal_folder(out)
    return _result(markers, [], job, started=started, already_done=sealed)


def _check_options(name: str, validation_percent: float) -> None:
    if not name or "." in name or "/" in name:
        raise InputError(f"name={name!r} must be a plain word without dots and slashes")
    if not 0 <= validation_percent < 100:
        raise InputError(f"validation percent {validation_percent} must be from 0 to below 100")


def _check_counts(counts: Mapping[str, int | None]) -> None:
    for what, value in counts.items():
        if value is not None and value < 1:
            raise InputError(f"{what} {value} must be at least 1")


@contextmanager
def _find_text(
    patterns: Sequence[str],
    out: Path,
    *,
    find: Callable[..., list[TextSource]],
    part: ArrayPart | None,
) -> Iterator[_Text]:
    left_out = LeftOut()
    if STANDARD_INPUT not in patterns:
        sources = find(patterns, left_out=left_out)
        yield _Text(sources, hash_sources(sources), left_out)
        return
    if len(patterns) > 1 or part:
        raise InputError("standard input (-) must be the only input, and not with --task")
    with standard_input(out / TASKS_FOLDER) as (source, sha256):
        yield _Text([source], sha256, left_out)


def _check_splits(tasks: Sequence[ShardTask], job: Job) -> None:
    """Looks for a first document of each split, before the work and not after it."""
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
        raise InputError(f"there is no document in the text ({why or 'no line'}): name other files")
    change = "lower" if "train" in wanted else "raise"
    raise InputError(
        f"none of {documents} documents would fall into the {wanted.pop()} split: {change} "
        f"--validation-percent from {choices.validation_percent:g}, or set it to 0"
    )


def _run_whole(
    tasks: Sequence[ShardTask], job: Job, tokenizer: bytes, *, workers: int, started: float
) -> ShardResult:
    with only_writer(job.out):
        claim_folder(job, tokenizer)
        remove_stale_input(job.out / TASKS_FOLDER)
        with _tidied(partial(_remove_parts, job)):
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
    with some_tasks(job.out, [task.number for task in mine]):
        with one_claimant(job.out):
            claim_folder(job, tokenizer)
            note_parts(job, part.count)
        with _tidied(partial(_remove_parts_of, mine, job)):
            markers, fresh = _run_missing(mine, job, workers)
    return _result(markers, fresh, job, started=started, already_done=not fresh)


@contextmanager
def _tidied(remove: Callable[[], None]) -> Iterator[None]:
    """Removes what killed processes left half-written: before, and after an error."""
    remove()
    try:
        yield
    except BaseException:
        remove()
        raise


def _remove_parts(job: Job) -> None:
    for folder in (TASKS_FOLDER, *job.splits):
        remove_parts(job.out / folder)


def _remove_parts_of(tasks: Sequence[ShardTask], job: Job) -> None:
    for task in tasks:
        for split in job.splits:
            remove_parts(job.out / split, prefix=f"{job.choices.name}-{task.number:06d}.")
        remove_parts(job.out / TASKS_FOLDER, prefix=f"{task.number:06d}.")


def _run_missing(
    tasks: Sequence[ShardTask], job: Job, workers: int
) -> tuple[list[TaskMarker], list[TaskMarker]]:
    found = {task.number: load_marker(task.number, job) for task in tasks}
    missing = [task for task in tasks if found[task.number] is None]
    fresh: dict[int, TaskMarker] = {}
    if missing:
        logger.info("%d of %d tasks to do", len(missing), len(tasks))
        size = sum(task.bytes for task in missing)
        processes = min(workers, len(missing))
        with show_progress("sharding", size) as advance, open_pool(processes) as pool:
            for task, marker in run_each(partial(run_task, job=job), missing, pool=pool):
                fresh[task.number] = marker
                advance(task.bytes)
    markers = [fresh.get(task.number) or found[task.number] for task in tasks]
    return [marker for marker in markers if marker], list(fresh.values())


def _result(
    markers: Sequence[TaskMarker],
    fresh: Sequence[TaskMarker],
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
