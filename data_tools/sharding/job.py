"""The sharding job: plans tasks, runs those not done yet, and seals the result with manifests.

Whatever the number of workers, and however often it was killed on the way, the same job leaves
the same bytes.
"""

import hashlib
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data_tools.errors import InputError
from data_tools.files import (
    file_sha256,
    load_json,
    only_writer,
    remove_parts,
    render_json,
    write_file,
)
from data_tools.manifest import (
    MANIFEST_NAME,
    SCHEMA,
    TOKENIZER_NAME,
    InputInfo,
    Manifest,
    TokenizerInfo,
    render_manifest,
    token_dtype,
    total_of,
)
from data_tools.progress import show_progress
from data_tools.reading.text_files import DEFAULT_GLOB, TextSource, find_sources
from data_tools.sharding.task import (
    TASKS_FOLDER,
    JobSettings,
    ShardTask,
    Split,
    TaskMarker,
    load_marker,
    run_task,
)
from data_tools.tokenizer import Tokenizer, load_tokenizer

MIB = 1024 * 1024
DEFAULT_PACK_TOKENS = MIB
_HASH_CONTENT_BELOW = 1024 * MIB  # Two seconds of hashing; above it, sizes and times must do.
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What a sharding job made, over all splits; `seconds` and the rate are of this run alone."""

    folders: tuple[Path, ...]
    documents: int
    tokens: int
    bytes: int
    skipped: int
    seconds: float
    tokens_per_second: float
    already_done: bool


def shard_corpus(
    patterns: Sequence[str],
    *,
    tokenizer: Path,
    out: Path,
    name: str = "tokens",
    folder_glob: str = DEFAULT_GLOB,
    exclude: Sequence[str] = (),
    validation_percent: float = 0.0,
    workers: int = 1,
    task_bytes: int | None = None,
    pack_tokens: int = DEFAULT_PACK_TOKENS,
    seed: int = 0,
) -> ShardResult:
    """Turns text files into token tars in `out/train` and `out/validation`.

    Args:
        patterns: Folders, globs and files, as `find_sources` takes them.
        tokenizer: The tokenizer model; its bytes are copied beside the tars.
        out: The job's folder; one that holds the same job unfinished is continued.
        name: How the tars' names begin.
        folder_glob: Which files of a folder are text.
        exclude: Which files to leave out.
        validation_percent: Share of documents for validation, chosen by content; 0 makes none.
        workers: Processes; does not change the result.
        task_bytes: Text per task and so per tar; chosen from the amount of text by default.
        pack_tokens: A pack is closed with the document that brings it to this many tokens.
        seed: Chooses which documents are for validation.

    Raises:
        InputError: No text, no tokenizer, another job in `out`, or another process writing there.
    """
    started = time.monotonic()
    _check_options(name, validation_percent, workers, task_bytes, pack_tokens)
    sources = find_sources(patterns, exclude=exclude, folder_glob=folder_glob)
    loaded = load_tokenizer(tokenizer)
    task_bytes = task_bytes or choose_task_bytes(sources)
    tasks = plan_tasks(sources, task_bytes=task_bytes)
    options = {
        "name": name,
        "pack_tokens": pack_tokens,
        "schema": SCHEMA,
        "seed": seed,
        "task_bytes": task_bytes,
        "text": _text_digest(sources),
        "tokenizer": loaded.sha256,
        "validation_percent": validation_percent,
    }
    settings = JobSettings(
        out=out,
        name=name,
        job_sha256=hashlib.sha256(render_json(options)).hexdigest(),
        tokenizer=tokenizer,
        tokenizer_sha256=loaded.sha256,
        validation_percent=validation_percent,
        pack_tokens=pack_tokens,
        seed=seed,
    )
    with only_writer(out):
        _claim(out, options)
        markers, fresh = _run_missing(tasks, settings, workers)
        sealed = all((out / split / MANIFEST_NAME).is_file() for split in settings.splits)
        if fresh or not sealed:
            _seal(markers, settings, loaded)
    return _result(markers, fresh, settings, time.monotonic() - started, not fresh and sealed)


def choose_task_bytes(sources: Sequence[TextSource]) -> int:
    """Takes a 64th of the text per task, within 4 and 256 MiB."""
    total = sum(file.stat().st_size for source in sources for file in source.files)
    return min(max(total // 64, 4 * MIB), 256 * MIB)


def plan_tasks(sources: Sequence[TextSource], *, task_bytes: int) -> list[ShardTask]:
    """Cuts the files of each source, in order, into tasks of about `task_bytes`."""
    tasks: list[ShardTask] = []
    for source in sources:
        files: list[Path] = []
        size = 0
        for file in source.files:
            files.append(file)
            size += file.stat().st_size
            if size >= task_bytes or file is source.files[-1]:
                tasks.append(ShardTask(len(tasks), source.label, tuple(files), size))
                files, size = [], 0
    return tasks


def _check_options(
    name: str, validation_percent: float, workers: int, task_bytes: int | None, pack_tokens: int
) -> None:
    if not name or "." in name or "/" in name:
        raise InputError(f"name={name!r} must be a plain word without dots and slashes")
    if not 0 <= validation_percent < 100:
        raise InputError(f"validation percent {validation_percent} must be from 0 to below 100")
    for what, value in (("workers", workers), ("task size", task_bytes), ("pack", pack_tokens)):
        if value is not None and value < 1:
            raise InputError(f"{what} {value} must be at least 1")


def _text_digest(sources: Sequence[TextSource]) -> str:
    stats = {file: file.stat() for source in sources for file in source.files}
    cheap = sum(stat.st_size for stat in stats.values()) < _HASH_CONTENT_BELOW
    digest = hashlib.sha256()
    for source in sources:
        for file in source.files:
            seen = file_sha256(file) if cheap else str(stats[file].st_mtime_ns)
            line = f"{source.label}\0{source.name_of(file)}\0{stats[file].st_size}\0{seen}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _claim(out: Path, options: dict[str, Any]) -> None:
    path = out / TASKS_FOLDER / "job.json"
    if path.is_file():
        there = load_json(path)
        if there != options:
            changed = sorted(key for key in options if there.get(key) != options[key])
            raise InputError(
                f"{out} belongs to a job with other {', '.join(changed)}: nothing was changed; "
                "choose another --out, or delete that folder"
            )
        return
    for split in ("train", "validation"):
        if (out / split).exists():
            raise InputError(f"{out / split} is there already, from no known job: change --out")
    write_file(path, render_json(options))


def _run_missing(
    tasks: list[ShardTask], settings: JobSettings, workers: int
) -> tuple[list[TaskMarker], dict[int, TaskMarker]]:
    done = {task.number: load_marker(task, settings) for task in tasks}
    missing = [task for task in tasks if done[task.number] is None]
    for folder in (TASKS_FOLDER, *settings.splits):
        remove_parts(settings.out / folder)
    fresh: dict[int, TaskMarker] = {}
    if missing:
        logger.info("%d of %d tasks to do", len(missing), len(tasks))
        with show_progress("sharding", sum(task.bytes for task in missing)) as advance:
            for task, marker in _run(missing, settings, workers):
                fresh[task.number] = marker
                advance(task.bytes)
    markers = [fresh.get(task.number) or done[task.number] for task in tasks]
    return [marker for marker in markers if marker], fresh


def _run(
    tasks: list[ShardTask], settings: JobSettings, workers: int
) -> Iterator[tuple[ShardTask, TaskMarker]]:
    if min(workers, len(tasks)) == 1:
        yield from ((task, run_task(task, settings)) for task in tasks)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_die_with_parent,
    )
    try:
        futures = {pool.submit(run_task, task, settings): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process was killed, perhaps for want of memory: "
            "run the same command again to go on, with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _seal(markers: list[TaskMarker], settings: JobSettings, tokenizer: Tokenizer) -> None:
    manifests = {split: _manifest(split, markers, settings, tokenizer) for split in settings.splits}
    for split, manifest in manifests.items():
        if not manifest.num_tokens:
            raise InputError(_empty_split(split, markers, settings))
    for split, manifest in manifests.items():
        write_file(settings.out / split / TOKENIZER_NAME, settings.tokenizer.read_bytes())
        write_file(settings.out / split / MANIFEST_NAME, render_manifest(manifest))


def _manifest(
    split: Split, markers: list[TaskMarker], settings: JobSettings, tokenizer: Tokenizer
) -> Manifest:
    shards = tuple(marker.shards[split] for marker in markers if split in marker.shards)
    return Manifest(
        name=settings.name,
        split=split,
        tokenizer=TokenizerInfo(
            sha256=tokenizer.sha256,
            vocab_size=tokenizer.vocab_size,
            special=tokenizer.special,
        ),
        dtype=token_dtype(tokenizer.vocab_size),
        shards=shards,
        totals=total_of(shards),
        inputs=_inputs(markers),
        tool_version=_tool_version(),
        seed=settings.seed,
    )


def _inputs(markers: list[TaskMarker]) -> tuple[InputInfo, ...]:
    of_source: dict[str, list[TaskMarker]] = {}
    for marker in markers:
        of_source.setdefault(marker.source, []).append(marker)
    return tuple(
        InputInfo(
            source=source,
            documents=sum(marker.documents for marker in group),
            bytes=sum(marker.bytes for marker in group),
            skipped=sum(marker.skipped for marker in group),
        )
        for source, group in of_source.items()
    )


def _empty_split(split: Split, markers: list[TaskMarker], settings: JobSettings) -> str:
    documents = sum(marker.documents for marker in markers)
    if not documents:
        return "every file is empty or not UTF-8, so there is no corpus: name other files"
    other = f"or set it to 0; choose another --out, or delete {settings.out}"
    change = "lower" if split == "train" else "raise"
    return (
        f"none of {documents} documents fell into the {split} split: "
        f"{change} --validation-percent from {settings.validation_percent:g}, {other}"
    )


def _tool_version() -> str:
    try:
        return version("bigtrain")
    except PackageNotFoundError:
        return "unknown"


def _result(
    markers: list[TaskMarker],
    fresh: dict[int, TaskMarker],
    settings: JobSettings,
    seconds: float,
    already_done: bool,
) -> ShardResult:
    now = sum(shard.tokens for marker in fresh.values() for shard in marker.shards.values())
    return ShardResult(
        folders=tuple(settings.out / split for split in settings.splits),
        documents=sum(marker.documents for marker in markers),
        tokens=sum(shard.tokens for marker in markers for shard in marker.shards.values()),
        bytes=sum(marker.bytes for marker in markers),
        skipped=sum(marker.skipped for marker in markers),
        seconds=seconds,
        tokens_per_second=now / seconds,
        already_done=already_done,
    )
