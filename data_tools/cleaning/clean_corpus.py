"""The cleaning job: scans the input, finds duplicates in all of it, writes parts and a report.

The same job writes the same bytes, for any number of workers, also if it was killed and continued.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.cleaning.clean_config import CleanConfig
from data_tools.cleaning.clean_report import REPORT_NAME, SCHEMA, report_dict
from data_tools.cleaning.clean_task import (
    TASKS_FOLDER,
    CleanMarker,
    CleanSettings,
    CleanTask,
    finish,
    load_finished,
    load_scan,
    remove_intermediate_files,
    scan,
)
from data_tools.cleaning.document_counts import Counts, add_counts
from data_tools.cleaning.find_duplicates import (
    Codes,
    duplicates_path,
    find_duplicates,
    load_duplicates,
)
from data_tools.errors import InputError
from data_tools.files import file_sha256, render_json, write_file
from data_tools.jobs.job_file import JobFile, hash_choices
from data_tools.jobs.output_folder import only_writer, removing_parts
from data_tools.jobs.run_tasks import find_done, in_order, run_tasks
from data_tools.jobs.task_sizes import choose_task_bytes, group_by_bytes
from data_tools.jobs.tool_version import tool_version
from data_tools.jobs.workers import WorkerPool, open_pool
from data_tools.reading.left_out_files import LeftOut
from data_tools.reading.read_pieces import plan_pieces
from data_tools.reading.text_sources import TextSource, find_sources, hash_sources

_KEYS_WITHOUT_EFFECT = {"inputs", "exclude", "glob", "out", "workers", "task_mb"}
# A task that finished with `stop` found nothing invalid, so its result is the same with `skip`.
_LENIENT = {"on_invalid"}

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
        **config.model_dump(mode="json", exclude=_KEYS_WITHOUT_EFFECT),
        "schema": SCHEMA,
        "task_bytes": task_bytes,
        "text": hash_sources(sources),
    }
    job_file = JobFile(
        folder=out,
        path=out / TASKS_FOLDER / "job.json",
        choices=options,
        may_change=_may_relax,
        remedy="choose another out",
    )
    sha256 = hash_choices(options, without=_LENIENT)
    settings = CleanSettings(out=out, job_sha256=sha256, config=config)
    with only_writer(out):
        _claim(job_file)
        with removing_parts([(out, ""), (out / TASKS_FOLDER, "")]):
            markers, fresh = _run_missing(tasks, settings)
        counts = add_counts(marker.counts for marker in markers)
        already_done = not fresh and (out / REPORT_NAME).is_file()
        if not already_done:
            _seal(counts, markers, settings, sources, left_out)
        _remove_intermediate_files(tasks, settings)
    return CleanResult(
        out=out,
        counts=counts,
        parts=sum(marker.part is not None for marker in markers),
        input_bytes=sum(task.bytes for task in tasks),
        seconds=time.monotonic() - started,
        already_done=already_done,
    )


def plan_tasks(sources: Sequence[TextSource], *, task_bytes: int) -> list[CleanTask]:
    """Cuts the input, in order, into tasks of about `task_bytes`."""
    pieces = (it for source in sources for it in plan_pieces(source, piece_bytes=task_bytes))
    groups = group_by_bytes(pieces, lambda piece: piece.bytes, task_bytes=task_bytes)
    return [CleanTask(number, group) for number, group in enumerate(groups)]


def _check_apart(sources: Sequence[TextSource], out: Path) -> None:
    folder = str(out.resolve()) + "/"
    for source in sources:
        for file in source.files:
            if file.path.startswith(folder):
                raise InputError(
                    f"{file.path} is an input inside out={out}: choose an out that is not in an "
                    "input, or exclude it"
                )


def _claim(job_file: JobFile) -> None:
    out = job_file.folder
    outputs = (path for name in (REPORT_NAME, "part-*.jsonl.zst") for path in out.glob(name))
    if job_file.has_begun(outputs) and not job_file.is_written:
        (out / REPORT_NAME).unlink(missing_ok=True)  # The report contains the choices too.
    job_file.write()


def _may_relax(theirs: Mapping[str, Any], _: Mapping[str, Any]) -> set[str]:
    return _LENIENT if theirs.get("on_invalid") == "stop" else set()


def _run_missing(
    tasks: Sequence[CleanTask], settings: CleanSettings
) -> tuple[list[CleanMarker], list[CleanMarker]]:
    """Runs every task that is not done; returns all markers in order, and those of this run."""
    done, missing = find_done(tasks, partial(load_finished, settings=settings))
    if not missing:
        return in_order(tasks, done), []
    logger.info("%d of %d tasks to do", len(missing), len(tasks))
    codes = load_duplicates(settings)
    with open_pool(min(settings.config.workers, len(tasks))) as pool:
        scanned = _scan_missing(tasks if codes is None else missing, settings, pool)
        ends = np.cumsum([marker.candidates for marker in in_order(tasks, done, scanned)])
        if codes is None:
            codes = find_duplicates(tasks, settings, candidates=int(ends[-1]))
        codes_of_task = np.split(codes, ends[:-1])
        work = [_ScannedTask(task, codes_of_task[task.number]) for task in missing]
        fresh = run_tasks("writing", partial(_finish, settings=settings), work, pool=pool)
    return in_order(tasks, done, fresh), list(fresh.values())


def _scan_missing(
    tasks: Sequence[CleanTask], settings: CleanSettings, pool: WorkerPool | None
) -> dict[int, CleanMarker]:
    scanned, missing = find_done(tasks, partial(load_scan, settings=settings))
    return scanned | run_tasks("cleaning", partial(scan, settings=settings), missing, pool=pool)


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


def _seal(
    counts: Counts,
    markers: Sequence[CleanMarker],
    settings: CleanSettings,
    sources: Sequence[TextSource],
    left_out: LeftOut,
) -> None:
    parts = [
        {**marker.part.model_dump(), "sha256": file_sha256(settings.out / marker.part.file)}
        for marker in markers
        if marker.part
    ]
    rules = settings.config.model_dump(mode="json", exclude=_KEYS_WITHOUT_EFFECT)
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
        tool_version=tool_version(),
    )
    write_file(settings.out / REPORT_NAME, render_json(report))


def _remove_intermediate_files(tasks: Sequence[CleanTask], settings: CleanSettings) -> None:
    for task in tasks:
        remove_intermediate_files(task, settings)
    duplicates_path(settings).unlink(missing_ok=True)
