"""The completion markers of a sharding job, which record the result of each task."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from data_tools.jobs.completion_markers import JobMarker, has_size, load_marker, write_marker
from data_tools.jobs.run_tasks import find_done
from data_tools.manifest import ShardInfo
from data_tools.sharding.plan_tasks import ShardTask
from data_tools.sharding.shard_job import TASKS_FOLDER, Job, Split
from data_tools.tar_index import index_path


class SourceCount(BaseModel):
    """Counts of what a task has read from one source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    documents: int
    bytes: int
    """Bytes of text in UTF-8."""
    skipped: dict[str, int]
    """How many documents were skipped, by reason."""


class ShardMarker(JobMarker):
    """The result of a finished task."""

    sources: tuple[SourceCount, ...]
    shards: dict[Split, ShardInfo]

    @property
    def documents(self) -> int:
        """Documents of all sources."""
        return sum(count.documents for count in self.sources)


def write_shard_marker(number: int, marker: ShardMarker, job: Job) -> None:
    """Records that a task is done."""
    write_marker(_marker_path(number, job), marker)


def load_shard_marker(number: int, job: Job) -> ShardMarker | None:
    """Reads the result of a finished task; None if it must run, for the first time or again."""
    marker = load_marker(_marker_path(number, job), ShardMarker, job_sha256=job.sha256)
    if marker is None:
        return None
    tars = [(job.out / split / shard.file, shard.bytes) for split, shard in marker.shards.items()]
    is_complete = all(has_size(tar, size) and index_path(tar).is_file() for tar, size in tars)
    return marker if is_complete else None


def find_done_tasks(
    tasks: Sequence[ShardTask], job: Job
) -> tuple[dict[int, ShardMarker], list[ShardTask]]:
    """The results of the tasks that are done, by their numbers; and the other tasks."""
    return find_done(tasks, lambda task: load_shard_marker(task.number, job))


def _marker_path(number: int, job: Job) -> Path:
    return job.out / TASKS_FOLDER / f"{number:06d}.json"
