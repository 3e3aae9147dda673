"""The cleaning job: scans the input, finds duplicates over all of it, writes parts and a report.

Whatever the number of workers, and however often it was killed on the way, the same job leaves
the same bytes.
"""

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.cleaning.clean_config import CleanConfig
from data_tools.cleaning.clean_report import REPORT_NAME, SCHEMA, report_dict
from data_tools.cleaning.clean_task import (
    TASKS_FOLDER,
    CleanSettings,
    CleanTask,
    Marker,
    finish,
    load_finished,
    load_scan,
    scan,
    sweep,
)
from data_tools.cleaning.document_counts import Counts, add_counts
from data_tools.cleaning.find_duplicates import (
    Codes,
    duplicates_path,
    find_duplicates,
    load_duplicates,
)
from data_tools.errors import InputError
from data_tools.files import (
    file_sha256,
    load_json,
    only_writer,
    remove_parts,
    render_json,
    write_file,
)
from data_tools.jobs.job_file import check_same_job
from data_tools.jobs.workers import WorkerPool, open_pool, run_each
from data_tools.progress import show_progress
from data_tools.reading.documents import Piece
from data_tools.reading.left_out_files import LeftOut
from data_tools.reading.read_pieces import plan_pieces
from data_tools.reading.text_sources import TextSource, find_sources, hash_sources

MIB = 1024 * 1024
_NOT_OF_THE_RESULT = {"inputs", "exclude", "glob", "out", "workers", "task_mb"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CleanResult:
    """What a cleaning job made; `seconds` are of this run alone."""

    out: Path
    counts: Counts
    parts: int
    input_bytes: int
    seconds: float
    already_done: bool


def clean_corpus(config: CleanConfig) -> CleanResult:
    """Cleans documents into `config.out`: parts of JSON Lines, and report.json.

    Raises:
        InputError: No input, an invalid line where the config says to stop, another job in the
            folder, or another process writing there.
    """
    started = time.monotonic()
    out = Path(config.out)
    left_out = LeftOut()
    sources = find_sources(
        config.inputs,
        exclude=config.exclude,
        folder_glob=config.glob,
        own=[out],
        left_out=left_out,
    )
    _check_apart(sources, out)
    task_bytes = int((config.task_mb or 0) * 1e6) or choose_task_bytes(sources)
    tasks = plan_tasks(sources, task_bytes=task_bytes)
    options = {
        **config.model_dump(mode="json", exclude=_NOT_OF_THE_RESULT),
        "schema": SCHEMA,
        "task_bytes": task_bytes,
        "text": hash_sources(sources),
    }
    # Tasks that were done before a stop found nothing invalid, so they stay good under skip.
    lasting = {key: value for key, value in options.items() if key != "on_invalid"}
    sha256 = hashlib.sha256(render_json(lasting)).hexdigest()
    settings = CleanSettings(out=out, job_sha256=sha256, config=config)
    with only_writer(out):
        _claim(out, options)
        _remove_parts(out)
        try:
            markers, fresh = _run_missing(tasks, settings)
        except BaseException:
            _remove_parts(out)  # Of the workers that were killed.
            raise
        counts = add_counts(marker.counts for marker in markers)
        already_done = not fresh and (out / REPORT_NAME).is_file()
        if not already_done:
            _seal(counts, markers, settings, sources, left_out)
        _sweep_all(tasks, settings)
    return CleanResult(
        out=out,
        counts=counts,
        parts=sum(marker.part is not None for marker in markers),
        input_bytes=sum(task.bytes for task in tasks),
        seconds=time.monotonic() - started,
        already_done=already_done,
    )


def choose_task_bytes(sources: Sequence[TextSource]) -> int:
    """Takes a 64th of the input per task, within 4 and 256 MiB."""
    total = sum(file.bytes for source in sources for file in source.files)
    return min(max(total // 64, 4 * MIB), 256 * MIB)


def plan_tasks(sources: Sequence[TextSource], *, task_bytes: int) -> list[CleanTask]:
    """Cuts the input, in order, into tasks of about `task_bytes`."""
    tasks: list[CleanTask] = []
    pieces: list[Piece] = []
    size = 0
    for source in sources:
        for piece in plan_pieces(source, piece_bytes=task_bytes):
            pieces.append(piece)
            size += piece.bytes
            if size >= task_bytes:
                tasks.append(CleanTask(len(tasks), tuple(pieces)))
                pieces, size = [], 0
    return [*tasks, CleanTask(len(tasks), tuple(pieces))] if pieces else tasks


def _check_apart(sources: Sequence[TextSource], out: Path) -> None:
    folder = str(out.resolve()) + "/"
    for source in sources:
        for file in source.files:
            if file.path.startswith(folder):
                raise InputError(
                    f"{file.path} is input and lies in out={out}: choose an out that is in none "
                    "of the inputs, or exclude it"
                )


def _claim(out: Path, options: dict[str, Any]) -> None:
    path = out / TASKS_FOLDER / "job.json"
    if path.is_file():
        there = load_json(path)
        check_same_job(
            options, there, folder=out, may_change=_may_relax, way_out="choose another out"
        )
        if there != options:
            (out / REPORT_NAME).unlink(missing_ok=True)  # It names them too.
            write_file(path, render_json(options))
        return
    for name in (REPORT_NAME, "part-*.jsonl.zst"):
        if found := next(out.glob(name), None):
            raise InputError(f"{found} is there already, from no known job: choose another out")
    write_file(path, render_json(options))


def _remove_parts(out: Path) -> None:
    for folder in (out, out / TASKS_FOLDER):
        remove_parts(folder)


def _may_relax(theirs: Mapping[str, Any], _: Mapping[str, Any]) -> set[str]:
    return {"on_invalid"} if theirs.get("on_invalid") == "stop" else set()


def _run_missing(
    tasks: Sequence[CleanTask], settings: CleanSettings
) -> tuple[list[Marker], list[Marker]]:
    """Brings every task to its end; returns all markers in order, and those of this run."""
    done = {task.number: load_finished(task, settings) for task in tasks}
    missing = [task for task in tasks if done[task.number] is None]
    if not missing:
        return [marker for marker in done.values() if marker], []
    logger.info("%d of %d tasks to do", len(missing), len(tasks))
    codes = load_duplicates(settings)
    with open_pool(min(settings.config.workers, len(tasks))) as pool:
        scanned = _scan_missing(tasks if codes is None else missing, settings, pool)
        known = [scanned.get(task.number) or done[task.number] for task in tasks]
        ends = np.cumsum([marker.candidates for marker in known if marker])
        if codes is None:
            codes = find_duplicates(tasks, settings, candidates=int(ends[-1]))
        fresh = _finish_missing(missing, settings, np.split(codes, ends[:-1]), pool)
    markers = [fresh.get(task.number) or done[task.number] for task in tasks]
    return [marker for marker in markers if marker], list(fresh.values())


def _scan_missing(
    tasks: Sequence[CleanTask], settings: CleanSettings, pool: WorkerPool | None
) -> dict[int, Marker]:
    found = {task.number: load_scan(task, settings) for task in tasks}
    missing = [task for task in tasks if found[task.number] is None]
    with show_progress("cleaning", sum(task.bytes for task in missing)) as advance:
        for task, marker in run_each(partial(scan, settings=settings), missing, pool=pool):
            found[task.number] = marker
            advance(task.bytes)
    return {number: marker for number, marker in found.items() if marker}


def _finish_missing(
    tasks: Sequence[CleanTask],
    settings: CleanSettings,
    codes: Sequence[Codes],
    pool: WorkerPool | None,
) -> dict[int, Marker]:
    work = [(task, codes[task.number]) for task in tasks]
    fresh: dict[int, Marker] = {}
    with show_progress("writing", sum(task.bytes for task in tasks)) as advance:
        for (task, _), marker in run_each(partial(_finish, settings=settings), work, pool=pool):
            fresh[task.number] = marker
            advance(task.bytes)
    return fresh


def _finish(work: tuple[CleanTask, Codes], settings: CleanSettings) -> Marker:
    return finish(work[0], settings, work[1])


def _seal(
    counts: Counts,
    markers: Sequence[Marker],
    settings: CleanSettings,
    sources: Sequence[TextSource],
    left_out: LeftOut,
) -> None:
    parts = [
        {**marker.part.model_dump(), "sha256": file_sha256(settings.out / marker.part.file)}
        for marker in markers
        if marker.part
    ]
    rules = settings.config.model_dump(mode="json", exclude=_NOT_OF_THE_RESULT)
    inputs = [
        {
            "source": source.label,
            "files": len(source.files),
            "bytes": sum(file.bytes for file in source.files),
        }
        for source in sources
    ]
    report = report_dict(
        counts,
        inputs=inputs,
        left_out=left_out.record(),
        rules=rules,
        parts=parts,
        tool_version=_tool_version(),
    )
    write_file(settings.out / REPORT_NAME, render_json(report))


def _sweep_all(tasks: Sequence[CleanTask], settings: CleanSettings) -> None:
    for task in tasks:
        sweep(task, settings)
    duplicates_path(settings).unlink(missing_ok=True)


def _tool_version() -> str:
    try:
        return version("bigtrain")
    except PackageNotFoundError:
        return "unknown"
