"""What a finished task leaves behind: a marker, written last, that says what it made."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from data_tools.errors import InputError
from data_tools.files import load_json, render_json, write_file
from data_tools.manifest import ShardInfo
from data_tools.sharding.shard_job import TASKS_FOLDER, Job, Split
from data_tools.tar_index import index_path


class SourceCount(BaseModel):
    """What one source gave to a task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    documents: int
    bytes: int
    """Of text, as UTF-8."""
    skipped: dict[str, int]
    """How many documents were left out, by reason."""


class TaskMarker(BaseModel):
    """What a finished task has made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_sha256: str
    sources: tuple[SourceCount, ...]
    shards: dict[Split, ShardInfo]

    @property
    def documents(self) -> int:
        """Documents of all sources."""
        return sum(count.documents for count in self.sources)


def write_marker(number: int, marker: TaskMarker, job: Job) -> None:
    """Says that a task is done."""
    write_file(_marker_path(number, job), render_json(marker.model_dump(mode="json")))


def load_marker(number: int, job: Job) -> TaskMarker | None:
    """Reads what a finished task has made; None where it must run, for the first time or again."""
    path = _marker_path(number, job)
    if not path.is_file():
        return None
    try:
        marker = TaskMarker.model_validate(load_json(path))
    except (InputError, ValidationError):
        return None
    whole = marker.job_sha256 == job.sha256 and all(
        _is_whole(job.out / split / shard.file, shard.bytes)
        for split, shard in marker.shards.items()
    )
    return marker if whole else None


def _marker_path(number: int, job: Job) -> Path:
    return job.out / TASKS_FOLDER / f"{number:06d}.json"


def _is_whole(tar: Path, size: int) -> bool:
    return tar.is_file() and tar.stat().st_size == size and index_path(tar).is_file()
