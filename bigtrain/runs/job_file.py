"""The file ``job.json`` of a run folder: which jobs of which scheduler train the run. No torch.

`launch` writes it before it submits, so that a job never runs without it; the supervisor changes
it later. Every command that watches a run finds the run's jobs here.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from bigtrain.config.cluster import ClusterConfig
from bigtrain.config.run_files import JOB_SCRIPT
from data_tools.files import PRIVATE, write_file
from data_tools.locks import wait_for_lock

JOB_FILE = "job.json"
JOB_SCHEMA = "bigtrain-job/1"
PRIVATE_FILES = (JOB_FILE, JOB_SCRIPT)
"""Only their owner may read them: they hold the profile's environment, perhaps with secrets."""
JOB_CONFIG = "config-job.yaml"
"""The resolved config of the run in its folder, which every rank of the job reads."""
_LOCK_FILE = ".job.lock"

JobState = Literal["preparing", "submitted", "running", "ended"]
"""preparing: being submitted; submitted: waits in the queue; running: the supervisor has begun;
ended: the supervisor has ended and no job of the run follows."""


class JobFileError(ValueError):
    """``job.json`` cannot be read; the message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """What ``job.json`` says about the jobs of a run."""

    scheduler: Literal["slurm", "hosts"]
    jobs: tuple[str, ...]
    """The scheduler's job ids, oldest first; empty until one is submitted, and for hosts."""
    submitted: str
    """When the first job was submitted; ISO 8601 with the time zone."""
    host: str
    """The host on which `launch` ran."""
    nodes: Annotated[int, Field(gt=0)]
    """Nodes that get ranks, without spares."""
    spares: Annotated[int, Field(ge=0)]
    ranks_per_node: Annotated[int, Field(gt=0)]
    cluster: ClusterConfig
    """The resolved profile."""
    config: str = JOB_CONFIG
    """Name of the resolved config in the run folder."""
    accept_change: tuple[str, ...] = ()
    """Keys that may differ from the checkpoint's."""
    profile: tuple[str, ...] = ()
    """The words that gave `launch` the profile, such as ``--cluster /home/me/profile.yaml``; empty
    if they are not known. Values of environment variables are left out."""
    state: JobState = "preparing"
    earlier_events: Annotated[int, Field(ge=0)] = 0
    """Events that ``attempts.jsonl`` had when a person last started the run; failures among them do
    not count in decisions about restarts."""

    @property
    def world_size(self) -> int:
        """Ranks of the run when no node is missing."""
        return self.nodes * self.ranks_per_node

    def with_job(self, job: str) -> "JobRecord":
        """The record after a job was submitted: its id is the newest, unless it is known."""
        state: JobState = "submitted" if self.state == "preparing" else self.state
        jobs = self.jobs if job in self.jobs else (*self.jobs, job)
        return replace(self, jobs=jobs, state=state)

    def with_state(self, state: JobState) -> "JobRecord":
        """The record in another state."""
        return replace(self, state=state)


# Readers ignore keys that they do not know: a newer version may have written the file.
_RECORD = TypeAdapter(JobRecord)


def load_job(run_dir: Path) -> JobRecord | None:
    """Reads ``job.json`` of a run folder; None if there is none, so the run was launched locally.

    Raises:
        JobFileError: The file is damaged, or of a newer schema.
        OSError: It cannot be read.
    """
    file = run_dir / JOB_FILE
    try:
        values = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise JobFileError(f"{file} is not JSON ({error}); restore or remove it") from None
    schema = values.pop("schema", None) if isinstance(values, dict) else None
    if schema != JOB_SCHEMA:
        raise JobFileError(
            f"{file}: schema={schema!r}, but this bigtrain reads {JOB_SCHEMA}; use the version "
            "that submitted the run"
        )
    try:
        return _RECORD.validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise JobFileError(f"{file}: {key}: {first['msg']}; restore or remove it") from None


def render_job(record: JobRecord) -> str:
    """The text of ``job.json``."""
    cluster = record.cluster.model_dump(mode="json")
    values: dict[str, Any] = {"schema": JOB_SCHEMA, **asdict(record), "cluster": cluster}
    return f"{json.dumps(values, indent=1, ensure_ascii=False)}\n"


def write_job(run_dir: Path, record: JobRecord) -> None:
    """Writes or replaces ``job.json`` of a run folder, atomically.

    Raises:
        OSError: It cannot be written; an old file is unchanged.
    """
    content = render_job(record).encode()
    write_file(run_dir / JOB_FILE, content, makes_folder=False, mode=PRIVATE)


def update_job(run_dir: Path, change: Callable[[JobRecord], JobRecord]) -> JobRecord | None:
    """Changes ``job.json`` under a lock: `launch` and the supervisor may do so at the same time.

    Args:
        run_dir: The run folder.
        change: Makes the new record from the present one, such as
            ``lambda record: record.with_job("1234").with_state("running")``.

    Returns:
        The new record; None if there is no ``job.json``.

    Raises:
        JobFileError: The file is damaged.
        OSError: It cannot be read or written.
    """
    with _job_lock(run_dir):
        old = load_job(run_dir)
        if old is None:
            return None
        new = change(old)
        if new != old:
            write_job(run_dir, new)
        return new


@contextmanager
def _job_lock(run_dir: Path) -> Iterator[None]:
    with (run_dir / _LOCK_FILE).open("a") as lock:
        wait_for_lock(lock)
        yield
