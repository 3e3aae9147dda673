"""Completion markers: a task writes its marker last, so that a later run can skip the task."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from data_tools.errors import InputError
from data_tools.files import load_json, render_json, write_file


class JobMarker(BaseModel):
    """The result of a task; each kind of job adds its own fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_sha256: str
    """The hash of the job's choices; a marker with another hash is ignored."""


Marker = TypeVar("Marker", bound=JobMarker)


def write_marker(path: Path, marker: JobMarker) -> None:
    """Records that a task is done."""
    write_file(path, render_json(marker.model_dump(mode="json")))


def load_marker(path: Path, kind: type[Marker], *, job_sha256: str) -> Marker | None:
    """Reads the marker of a task; None if there is none, or it is damaged or of another job."""
    if not path.is_file():
        return None
    try:
        marker = kind.model_validate(load_json(path))
    except (InputError, ValidationError):
        return None
    return marker if marker.job_sha256 == job_sha256 else None


def has_size(path: Path, size: int) -> bool:
    """Whether a file exists and has this size."""
    return path.is_file() and path.stat().st_size == size
