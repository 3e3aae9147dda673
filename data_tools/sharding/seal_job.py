"""Completes a sharding job: checks that every task is done, then writes the manifests."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from data_tools.errors import InputError
from data_tools.files import remove_parts, write_file
from data_tools.jobs.array_part import describe_missing
from data_tools.jobs.output_folder import only_writer
from data_tools.jobs.task_locks import read_part_count, remove_locks
from data_tools.jobs.tool_version import tool_version
from data_tools.manifest import (
    MANIFEST_NAME,
    InputInfo,
    Manifest,
    TokenizerInfo,
    render_manifest,
    token_dtype,
    total_of,
)
from data_tools.sharding.shard_job import TASKS_FOLDER, Job, Split, load_job
from data_tools.sharding.shard_markers import ShardMarker, SourceCount, load_shard_marker
from data_tools.tokenizer import Tokenizer, load_tokenizer


def seal_folder(out: Path) -> tuple[Job, list[ShardMarker], bool]:
    """Writes the manifests of a job whose tasks were run by several processes.

    Returns:
        The job, the markers of all its tasks, and whether it was sealed already.

    Raises:
        InputError: There is no job, a task is missing, or a process is still writing.
    """
    load_job(out)  # Raises an error before the lock file is made.
    with only_writer(out):
        job = load_job(out)
        found = {number: load_shard_marker(number, job) for number in range(job.choices.tasks)}
        missing = [number for number, marker in found.items() if marker is None]
        if missing:
            raise InputError(_missing(missing, job))
        markers = [marker for marker in found.values() if marker]
        for folder in (TASKS_FOLDER, *job.splits):
            remove_parts(out / folder)
        sealed = is_sealed(job)
        if not sealed:
            write_manifests(markers, job)
        remove_locks(job.folder)
    return job, markers, sealed


def is_sealed(job: Job) -> bool:
    """Whether every split has its manifest."""
    return all((job.out / split / MANIFEST_NAME).is_file() for split in job.splits)


def write_manifests(markers: Sequence[ShardMarker], job: Job) -> None:
    """Writes a manifest for each split, and a copy of the tokenizer beside it.

    Args:
        markers: The markers of all tasks, in the order of their numbers.
        job: The job.
    """
    tokenizer = load_tokenizer(job.tokenizer)
    if tokenizer.sha256 != job.choices.tokenizer:
        raise InputError(f"{job.tokenizer} was changed: run `bigtrain data shard` again")
    for split in job.splits:
        manifest = _manifest(split, markers, job, tokenizer)
        write_file(job.out / split / manifest.tokenizer.file, job.tokenizer.read_bytes())
        write_file(job.out / split / MANIFEST_NAME, render_manifest(manifest))


def skipped_by_reason(markers: Iterable[ShardMarker]) -> dict[str, int]:
    """Counts the documents that were skipped, by reason."""
    total: dict[str, int] = {}
    for marker in markers:
        for count in marker.sources:
            for reason, number in count.skipped.items():
                total[reason] = total.get(reason, 0) + number
    return dict(sorted(total.items()))


def _manifest(
    split: Split, markers: Sequence[ShardMarker], job: Job, tokenizer: Tokenizer
) -> Manifest:
    shards = tuple(marker.shards[split] for marker in markers if split in marker.shards)
    return Manifest(
        name=job.choices.name,
        split=split,
        tokenizer=TokenizerInfo(
            sha256=tokenizer.sha256,
            vocab_size=tokenizer.vocab_size,
            special=tokenizer.special,
            file=job.choices.tokenizer_file,
        ),
        dtype=token_dtype(tokenizer.vocab_size),
        shards=shards,
        totals=total_of(shards),
        inputs=_inputs(markers),
        tool_version=tool_version(),
        seed=job.choices.seed,
        validation_percent=job.choices.validation_percent,
    )


def _inputs(markers: Sequence[ShardMarker]) -> tuple[InputInfo, ...]:
    of_source: dict[str, list[SourceCount]] = {}
    for marker in markers:
        for count in marker.sources:
            of_source.setdefault(count.source, []).append(count)
    return tuple(
        InputInfo(
            source=source,
            documents=sum(count.documents for count in counts),
            bytes=sum(count.bytes for count in counts),
            skipped=sum(sum(count.skipped.values()) for count in counts),
        )
        for source, counts in of_source.items()
    )


def _missing(missing: list[int], job: Job) -> str:
    count = read_part_count(job.folder) or job.choices.tasks
    tars, parts = describe_missing(missing, count)
    return (
        f"{job.out} lacks {len(missing)} of {job.choices.tasks} tars ({tars}): run the "
        f"same `bigtrain data shard` again with --task {parts}, "
        "or once without --task for all missing ones"
    )
