"""A cleaning job: its tasks, its settings, and the files that begin and end it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.cleaning.clean_config import CleanConfig
from data_tools.cleaning.clean_report import REPORT_NAME, SCHEMA, report_dict
from data_tools.cleaning.clean_task import (
    TASKS_FOLDER,
    CleanMarker,
    CleanSettings,
    CleanTask,
    load_finished,
    load_scan,
    remove_intermediate_files,
)
from data_tools.cleaning.document_counts import Counts, add_counts
from data_tools.cleaning.find_duplicates import duplicates_path
from data_tools.errors import InputError
from data_tools.files import file_sha256, render_json, write_file
from data_tools.jobs.job_file import JobFile, hash_choices
from data_tools.jobs.run_tasks import find_done
from data_tools.jobs.task_locks import remove_locks
from data_tools.jobs.task_sizes import choose_task_bytes, group_by_bytes
from data_tools.jobs.tool_version import tool_version
from data_tools.reading.left_out_files import LeftOut
from data_tools.reading.read_pieces import plan_pieces
from data_tools.reading.text_sources import TextSource, find_sources, hash_sources

_KEYS_WITHOUT_EFFECT = {"inputs", "exclude", "glob", "out", "workers", "task_mb"}
# A task that finished with `stop` found nothing invalid, so its result is the same with `skip`.
_LENIENT = {"on_invalid"}


@dataclass(frozen=True, slots=True)
class CleanJob:
    """A cleaning job whose input was found."""

    tasks: list[CleanTask]
    settings: CleanSettings
    job_file: JobFile
    sources: list[TextSource]
    left_out: LeftOut

    @property
    def out(self) -> Path:
        """The folder of the result."""
        return self.settings.out

    @property
    def folder(self) -> Path:
        """The subfolder with the job file, the completion markers and intermediate files."""
        return self.settings.out / TASKS_FOLDER

    @property
    def has_begun(self) -> bool:
        """Whether this job has begun in its folder.

        Raises:
            InputError: The folder has another job, or the result of an unknown one.
        """
        names = (REPORT_NAME, "part-*.jsonl.zst")
        return self.job_file.has_begun(path for name in names for path in self.out.glob(name))

    @property
    def is_sealed(self) -> bool:
        """Whether the report is written; it is written last."""
        return (self.out / REPORT_NAME).is_file()

    def find_finished(
        self, tasks: Sequence[CleanTask]
    ) -> tuple[dict[int, CleanMarker], list[CleanTask]]:
        """The results of the tasks that are finished, by their numbers; and the other tasks."""
        return find_done(tasks, partial(load_finished, settings=self.settings))

    def find_scanned(
        self, tasks: Sequence[CleanTask]
    ) -> tuple[dict[int, CleanMarker], list[CleanTask]]:
        """The scans of the tasks that `finish` could take, by their numbers; and the others."""
        return find_done(tasks, partial(load_scan, settings=self.settings))


def plan_job(config: CleanConfig) -> CleanJob:
    """Finds the input of a job and plans its tasks; writes nothing.

    Raises:
        InputError: There is no input, or it is inside the output folder.
    """
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
    tasks = plan_tasks(sources, task_bytes=task_bytes)
    return CleanJob(tasks, settings, job_file, sources, left_out)


def plan_tasks(sources: Sequence[TextSource], *, task_bytes: int) -> list[CleanTask]:
    """Cuts the input, in order, into tasks of about `task_bytes`."""
    pieces = (it for source in sources for it in plan_pieces(source, piece_bytes=task_bytes))
    groups = group_by_bytes(pieces, lambda piece: piece.bytes, task_bytes=task_bytes)
    return [CleanTask(number, group) for number, group in enumerate(groups)]


def claim_folder(job: CleanJob) -> None:
    """Writes the job file.

    Raises:
        InputError: The folder has another job, or the result of an unknown one.
    """
    if job.has_begun and not job.job_file.is_written:
        (job.out / REPORT_NAME).unlink(missing_ok=True)  # The report contains the choices too.
    job.job_file.write()


def seal(job: CleanJob, markers: Sequence[CleanMarker], *, already_done: bool) -> Counts:
    """Writes the report of a job whose tasks are all finished, and removes intermediate files.

    Args:
        job: The job.
        markers: The markers of all tasks, in order.
        already_done: Whether the report is there and need not be written.
    """
    counts = add_counts(marker.counts for marker in markers)
    if not already_done:
        _write_report(job, counts, markers)
    for task in job.tasks:
        remove_intermediate_files(task, job.settings)
    duplicates_path(job.settings).unlink(missing_ok=True)
    remove_locks(job.folder)
    return counts


def _check_apart(sources: Sequence[TextSource], out: Path) -> None:
    folder = str(out.resolve()) + "/"
    for source in sources:
        for file in source.files:
            if file.path.startswith(folder):
                raise InputError(
                    f"{file.path} is an input inside out={out}: choose an out that is not in an "
                    "input, or exclude it"
                )


def _may_relax(theirs: Mapping[str, Any], _: Mapping[str, Any]) -> set[str]:
    return _LENIENT if theirs.get("on_invalid") == "stop" else set()


def _write_report(job: CleanJob, counts: Counts, markers: Sequence[CleanMarker]) -> None:
    parts = [
        {**marker.part.model_dump(), "sha256": file_sha256(job.out / marker.part.file)}
        for marker in markers
        if marker.part
    ]
    inputs = [
        {
            "source": source.label,
            "files": len(source.files),
            "bytes": sum(file.bytes for file in source.files),
        }
        for source in job.sources
    ]
    report = report_dict(
        counts,
        inputs=inputs,
        left_out=job.left_out.record(),
        rules=job.settings.config.model_dump(mode="json", exclude=_KEYS_WITHOUT_EFFECT),
        parts=parts,
        tool_version=tool_version(),
    )
    write_file(job.out / REPORT_NAME, render_json(report))
