"""A sharding job: the choices that determine its output, and the job file that records them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from data_tools.errors import InputError
from data_tools.files import file_sha256, load_json, render_json, write_file
from data_tools.jobs.job_file import JobFile, hash_choices
from data_tools.jobs.output_folder import LOCK_NAME
from data_tools.manifest import SCHEMA
from data_tools.reading.documents import ReadOptions

Split = Literal["train", "validation"]
TASKS_FOLDER = "tasks"
LEFT_OUT_SCHEMA = "bigtrain-left-out/1"
_LEFT_OUT_NAME = "left_out.json"
_LENIENT = {"on_invalid", "max_document_bytes"}


class JobChoices(BaseModel):
    """All choices that determine what a job writes; jobs with equal choices write equal bytes.

    `on_invalid` and `max_document_bytes` matter only for a document that is invalid or too long,
    and a task that stopped at such a document has written nothing. So these two may become more
    lenient when the job is continued.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus_schema: str = SCHEMA
    max_document_bytes: int
    name: str
    on_invalid: Literal["stop", "skip"]
    pack_tokens: int
    seed: int
    sentences: bool
    shuffle: bool
    task_bytes: int
    tasks: int
    """The number of tasks."""
    text: str
    """The hash of all input."""
    text_field: str
    tokenizer: str
    """The sha256 of the tokenizer."""
    tokenizer_file: str
    validation_percent: float

    @property
    def reading(self) -> ReadOptions:
        """How the text is read."""
        return ReadOptions(
            text_field=self.text_field,
            on_invalid=self.on_invalid,
            max_document_bytes=self.max_document_bytes,
        )


@dataclass(frozen=True, slots=True)
class Job:
    """A job and its folder."""

    out: Path
    choices: JobChoices
    sha256: str
    """The hash of the choices that may not change; it is in every marker."""
    left_out: Mapping[str, Any] = field(default_factory=dict)
    """Counts of input files that are not read; the first run records them."""

    @property
    def splits(self) -> tuple[Split, ...]:
        """The corpus folders that the job makes."""
        return ("train", "validation") if self.choices.validation_percent else ("train",)

    @property
    def folder(self) -> Path:
        """The subfolder with the job file and the completion markers."""
        return self.out / TASKS_FOLDER

    @property
    def tokenizer(self) -> Path:
        """The job's own copy of the tokenizer."""
        return self.folder / self.choices.tokenizer_file


def own_files(out: Path, tokenizer_file: str) -> list[Path]:
    """The files and folders that a job writes; its folder may be inside a folder of its inputs."""
    files = [out / LOCK_NAME, out / TASKS_FOLDER / tokenizer_file]
    folders = [out / name for name in (TASKS_FOLDER, "train", "validation")]
    return [*files, *folders] if _job_path(out).is_file() else files


def make_job(out: Path, choices: JobChoices, left_out: Mapping[str, Any] | None = None) -> Job:
    """Makes a job from its folder and its choices."""
    sha256 = hash_choices(choices.model_dump(), without=_LENIENT)
    return Job(out, choices, sha256, left_out or {})


def load_job(out: Path) -> Job:
    """Reads the job of a folder.

    Raises:
        InputError: There is no job, or another version of bigtrain started it.
    """
    path = _job_path(out)
    if not path.is_file():
        raise InputError(f"no sharding job in {out}: start one with `bigtrain data shard`")
    try:
        return make_job(out, JobChoices.model_validate(load_json(path)))
    except ValidationError as error:
        raise InputError(
            f"{path} was written by another version: finish the job with that version, or delete "
            f"{out}"
        ) from error


def is_claimed(job: Job) -> bool:
    """Whether this job has begun in its folder.

    Raises:
        InputError: Another job has begun there, or there is a corpus without a job file.
    """
    splits = (job.out / split for split in ("train", "validation"))
    return _job_file(job).has_begun(path for path in splits if path.exists())


def claim_folder(job: Job, tokenizer: bytes) -> None:
    """Writes the job file, and a copy of the tokenizer.

    Raises:
        InputError: Another job has begun in the folder, or there is a corpus without a job file.
    """
    is_claimed(job)
    if not job.tokenizer.is_file() or file_sha256(job.tokenizer) != job.choices.tokenizer:
        write_file(job.tokenizer, tokenizer)
    _job_file(job).write()
    record = job.out / TASKS_FOLDER / _LEFT_OUT_NAME
    if job.left_out and not record.is_file():
        write_file(record, render_json({"schema": LEFT_OUT_SCHEMA, "left_out": job.left_out}))


def _job_file(job: Job) -> JobFile:
    return JobFile(
        folder=job.out,
        path=_job_path(job.out),
        choices=job.choices.model_dump(),
        may_change=_may_relax,
        remedy="choose another --out",
    )


def _job_path(out: Path) -> Path:
    return out / TASKS_FOLDER / "job.json"


def _may_relax(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> set[str]:
    if theirs.get("on_invalid") != "stop":
        return set()
    grows = ours["max_document_bytes"] >= theirs.get("max_document_bytes", 0)
    return _LENIENT if grows else {"on_invalid"}
