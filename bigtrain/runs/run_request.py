"""Requests to a run that is being trained: ``request.json`` for its supervisor, STOP for its ranks.

A request names the job that it is for, so that a request to a job that has ended does not stop the
next one. The file STOP has no content: rank 0 looks for it at each step.
"""

import os
import pwd
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from bigtrain.config.run_files import REQUEST_FILE, STOP_FILE
from data_tools.files import render_json, write_file

Request = Literal["stop", "cancel", "requeue"]


def write_request(run_dir: Path, request: Request, *, job: str | None) -> None:
    """Asks the supervisor of a run to end its job.

    Args:
        run_dir: The run folder.
        request: ``stop``: save and end, however long it takes; ``cancel``: save if that is possible
            in seconds, and end; ``requeue``: save, and continue in a later job.
        job: The job that is asked; None for a run without a scheduler.

    Raises:
        OSError: The file cannot be written.
    """
    values = {
        "request": request,
        "job": job,
        "by": f"{_user()}@{socket.gethostname()}",
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    write_file(run_dir / REQUEST_FILE, render_json(values), makes_folder=False)


def write_stop_file(run_dir: Path) -> None:
    """Asks rank 0 to save and end at the next step.

    Raises:
        OSError: The file cannot be written.
    """
    (run_dir / STOP_FILE).touch()


def remove_requests(run_dir: Path) -> None:
    """Removes all requests, so that a job that is started now is not stopped by an old one.

    Raises:
        OSError: A file cannot be removed.
    """
    for name in (REQUEST_FILE, STOP_FILE):
        (run_dir / name).unlink(missing_ok=True)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"
