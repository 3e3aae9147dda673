"""Prepares a sharding job: finds its text, plans its tasks, and checks that no split is empty."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_tools.errors import InputError
from data_tools.jobs.task_sizes import choose_task_bytes
from data_tools.reading.documents import Document, Skipped
from data_tools.reading.left_out_files import LeftOut
from data_tools.reading.read_pieces import read_piece
from data_tools.reading.standard_input import standard_input
from data_tools.reading.text_sources import (
    STANDARD_INPUT,
    TextSource,
    find_sources,
    hash_sources,
)
from data_tools.sharding.plan_tasks import ShardTask, plan_tasks
from data_tools.sharding.shard_job import (
    TASKS_FOLDER,
    Job,
    JobChoices,
    is_claimed,
    make_job,
    own_files,
)
from data_tools.sharding.shard_options import ShardOptions
from data_tools.sharding.shard_task import choose_split
from data_tools.tokenizer import Tokenizer, check_exportable, load_tokenizer
from data_tools.tokenizer.build_tokenizer import files_of_tokenizer


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A job whose text was found and checked, and which may begin or continue."""

    tasks: list[ShardTask]
    job: Job
    tokenizer: bytes
    """The content of the tokenizer file."""
    is_new: bool
    """Whether the job has not begun in its folder."""


@dataclass(frozen=True, slots=True)
class _Text:
    """The input of a job, and its hash."""

    sources: list[TextSource]
    digest: str
    left_out: LeftOut


@contextmanager
def prepare_job(
    patterns: Sequence[str],
    *,
    tokenizer: Path,
    out: Path,
    options: ShardOptions | None = None,
    reads_stdin: bool,
) -> Iterator[PreparedJob]:
    """Prepares a job; writes nothing, except for a copy of standard input until the block ends.

    Args:
        patterns: Folders, globs, files and URLs, or only `-`, as `shard_corpus` takes them.
        tokenizer: The tokenizer file.
        out: The job's output folder.
        options: How the text is read, split, cut and ordered.
        reads_stdin: Whether standard input may be the text.

    Raises:
        InputError: There is no text or no tokenizer, the tokenizer cannot be exported, a split
            would be empty, or `out` has another job.
    """
    options = options or ShardOptions()
    loaded = load_tokenizer(tokenizer)
    check_exportable(loaded)
    own = [*own_files(out, loaded.file_name), *files_of_tokenizer(tokenizer)]
    with _find_text(patterns, out, options=options, own=own, reads_stdin=reads_stdin) as text:
        tasks, job = _plan_job(text, loaded, out, options)
        is_new = not is_claimed(job)
        if is_new:
            _check_splits(tasks, job)
        yield PreparedJob(tasks, job, loaded.content, is_new)


@contextmanager
def _find_text(
    patterns: Sequence[str],
    out: Path,
    *,
    options: ShardOptions,
    own: Sequence[Path],
    reads_stdin: bool,
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
    if len(patterns) > 1 or not reads_stdin:
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
