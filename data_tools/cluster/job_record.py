"""The file that records the jobs that were last submitted for an output folder."""

import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from data_tools.cluster.plan import CLUSTER_FOLDER, ArrayPlan
from data_tools.errors import InputError
from data_tools.files import load_json, render_json, write_file
from launcher.slurm.client import QueuedJob, list_queue

JOBS_FILE = "jobs.json"
_SCHEMA = "bigtrain-data-jobs/1"


class SubmittedJob(BaseModel):
    """A job that was submitted."""

    model_config = ConfigDict(frozen=True)

    job: str
    """SLURM's id."""
    name: str
    """Its script is NAME.sh; its logs begin with NAME-ID."""
    parts: int | None
    """How many parts its array has; None if it is not an array."""


class DataJobRecord(BaseModel):
    """The last jobs that were submitted for an output folder."""

    model_config = ConfigDict(frozen=True)

    schema_name: str = _SCHEMA
    command: str
    """shard or clean."""
    submitted: str
    """When; ISO 8601 with the time zone."""
    host: str
    num_tasks: int
    """Tasks of the data job, each with a completion marker."""
    result: str
    """The file in the output folder that is written last."""
    jobs: tuple[SubmittedJob, ...] = ()

    def with_job(self, job: SubmittedJob) -> "DataJobRecord":
        """The record after another job was submitted."""
        return self.model_copy(update={"jobs": (*self.jobs, job)})


def new_record(plan: ArrayPlan) -> DataJobRecord:
    """The record of a plan before its first job is submitted."""
    return DataJobRecord(
        command=plan.command,
        submitted=datetime.now(UTC).isoformat(timespec="seconds"),
        host=socket.gethostname(),
        num_tasks=plan.num_tasks,
        result=plan.result,
    )


def load_record(folder: Path) -> DataJobRecord | None:
    """Reads the record of a job's folder; None if no job was submitted.

    Raises:
        InputError: The file is damaged or of another version.
    """
    path = folder / CLUSTER_FOLDER / JOBS_FILE
    if not path.is_file():
        return None
    try:
        record = DataJobRecord.model_validate(load_json(path))
    except ValidationError:
        record = None
    if record is None or record.schema_name != _SCHEMA:
        raise InputError(
            f"{path} was written by another version, or is damaged: see with `squeue --me` that no "
            "job of this folder is in the queue, then remove the file"
        )
    return record


def write_record(folder: Path, record: DataJobRecord) -> None:
    """Writes or replaces the record of a job's folder."""
    content = render_json(record.model_dump(mode="json"))
    write_file(folder / CLUSTER_FOLDER / JOBS_FILE, content)


def find_queued_jobs(folder: Path) -> list[QueuedJob]:
    """The jobs of a job's folder that wait or run.

    Finds also a job that was submitted but not recorded, by the path of its script.

    Raises:
        InputError: The record is damaged.
        SlurmError: SLURM does not answer.
    """
    record = load_record(folder)
    ids = {job.job for job in record.jobs} if record else set[str]()
    scripts = f"{folder / CLUSTER_FOLDER}/"
    listed = list_queue(user=str(os.getuid()))
    if ids:  # Another user may have submitted them.
        listed += list_queue(sorted(ids))
    ours = {
        job.job: job
        for job in listed
        if job.is_active and (base_id(job) in ids or job.command.startswith(scripts))
    }
    return sorted(ours.values(), key=lambda job: int(base_id(job)))


def base_id(job: QueuedJob) -> str:
    """The id of the array of a part: 12 of 12_3 and of 12_[4-9]."""
    return job.job.split("_")[0]
