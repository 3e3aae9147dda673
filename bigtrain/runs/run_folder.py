"""The files of one run: its config, attempts, status, metrics, checkpoints and logs."""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from bigtrain.checkpoint.run_checkpoints import (
    absolute_place,
    checkpoints_of_run,
    fork_command,
    original_of,
    path_argument,
)
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.config import ConfigError, RunConfig, render_config
from bigtrain.config.run_files import JOB_SCRIPT, STATUS_FILE
from bigtrain.config.saved import ATTEMPTS_FILE, CONFIG_FILE, load_run_of
from bigtrain.runs.job_file import JobFileError, JobRecord, load_job
from bigtrain.runs.launch_file import remove_abandoned_launch_files
from bigtrain.runs.run_lock import acquire_run_lock
from bigtrain.runs.wandb_id import remove_wandb_id
from bigtrain.track.json_lines import finite_values, open_to_append, read_lines
from bigtrain.track.mlflow_run import ID_FILE as MLFLOW_ID_FILE
from data_tools.files import remove_parts, write_file

log = logging.getLogger(__name__)

_MISSING = (FileNotFoundError, NotADirectoryError)
PART_SECONDS = 60.0
"""A temporary file of this age is of a process that was killed."""


class RunFolder:
    """The files of one run; rank 0 writes them, or between attempts the launcher or `rewind`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG_FILE
        self.status = path / STATUS_FILE
        self.metrics = path / "metrics.jsonl"
        self.logs = path / "logs"
        self.wandb = path / "wandb"
        self.attempts = path / ATTEMPTS_FILE
        self._lock: TextIO | None = None
        self._started = time.monotonic()
        self._last_heartbeat = 0.0

    @property
    def checkpoints(self) -> Folder:
        """The folder of the run's checkpoints, from its newest config."""
        return checkpoints_of_run(self.path)

    def resume_command(self) -> list[str]:
        """The command that resumes this run where it was trained last.

        For a run of a cluster, this is ``requeue`` or a launch on as many nodes; else it is a
        launch of as many processes as the newest attempt used.
        """
        # `launch` itself reports a damaged file, or one of another user.
        with suppress(JobFileError, PermissionError):
            if (job := load_job(self.path)) is not None:
                return self._requeue_command(job)
        command = ["bigtrain", "launch", path_argument(self.path)]
        starts = [event for event in self._events() if event.get("event") == "start"]
        processes, default = starts[-1].get("world_size") if starts else None, None
        with suppress(ConfigError):  # Without its config a run cannot be launched anyway.
            default = load_run_of(self.path).parallel.model_parallel_size
        if processes in (None, default):
            return command
        return [*command, "--processes", str(processes)]

    def _requeue_command(self, job: JobRecord) -> list[str]:
        run = path_argument(self.path)
        if job.scheduler == "slurm" and (self.path / JOB_SCRIPT).is_file():
            return ["bigtrain", "requeue", run]
        profile = job.profile or ("--cluster", "PROFILE.yaml")
        return ["bigtrain", "launch", run, *profile, "--nodes", str(job.nodes)]

    @property
    def last_checkpoint(self) -> str | None:
        """The checkpoint that ``status.json`` names; None if it names none or cannot be read."""
        try:
            status = json.loads(self.status.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        last = status.get("last_checkpoint") if isinstance(status, dict) else None
        return None if last is None else str(last)

    def lock(self) -> None:
        """Takes the run's lock until this process ends.

        Raises:
            RunBusyError: Another process holds it.
        """
        self._lock = acquire_run_lock(self.path)

    def check_place(self) -> None:
        """Checks that the folder exists or can be created.

        Raises:
            ConfigError: The path, or one above it, is a file.
        """
        for place in (self.path, *self.path.parents):
            if place.exists() and not place.is_dir():
                raise ConfigError(
                    f"{self.path}: {place} is a file, where the run folder would be; move it, or "
                    "set another name or runs_dir"
                )

    def explain_no_run(self) -> str | None:
        """Returns one line that says why the folder is not a run folder; None if it is one."""
        if self.config.is_file():
            return None
        if not self.path.exists():
            reason = "there is no such folder"
        elif not self.path.is_dir():
            reason = "it is a file"
        elif any(self.path.iterdir()):
            reason = f"it holds no {CONFIG_FILE}"
        else:
            reason = "it is an empty folder"
        return f"{self.path}: not a run folder, {reason}; give one such as runs/gpt-tiny"

    def begin_attempt(
        self,
        config: RunConfig,
        *,
        world_size: int,
        step: int = 0,
        loaded_from: str | None = None,
        after: int = 0,
        checkpoints: Folder | None = None,
    ) -> int:
        """Records that an attempt begins, and writes its config.

        Args:
            config: The run's config.
            world_size: Number of ranks.
            step: Steps already taken.
            loaded_from: The checkpoint that the attempt starts from or takes its weights from.
            after: A number that the attempt's number must exceed, even if this folder has no
                record of an attempt with that number.
            checkpoints: The folder of checkpoints, if it is not in this folder.

        Returns:
            The attempt's number, from 1.
        """
        for folder in (self.path, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            # The supervisor and commands such as `stop` write small files here at any time.
            remove_parts(self.path, min_age=PART_SECONDS)
        self._separate_from_original()
        attempt = 1 + max(self.newest_attempt, after)
        text = render_config(config).encode()
        write_file(self.path / f"config-attempt-{attempt}.yaml", text)
        write_file(self.config, text)
        self._append_event(
            {
                "event": "start",
                "attempt": attempt,
                "world_size": world_size,
                "step": step,
                "checkpoint": loaded_from,
                "process": os.getpid(),
                "host": socket.gethostname(),
                "folder": str(self.path.resolve()),
                "checkpoints": None if checkpoints is None else absolute_place(checkpoints),
            }
        )
        remove_abandoned_launch_files(self.path)
        return attempt

    def _separate_from_original(self) -> None:
        """Makes the folder a run of its own if it is a copy of a run that still exists."""
        original = original_of(self.path)
        if original is None:
            return
        log.warning(
            "%s is a copy of %s: from here on it is a separate run, in wandb too. To start a new "
            "run from its checkpoint, use `%s`",
            *(self.path, original, fork_command(original)),
        )
        remove_wandb_id(self.path)
        with suppress(OSError):
            (self.path / MLFLOW_ID_FILE).unlink(missing_ok=True)

    @property
    def newest_attempt(self) -> int:
        """The number of the newest attempt; 0 if there is none."""
        return max(self._attempt_numbers(), default=0)

    def end_attempt(self, attempt: int, *, state: str, step: int, reason: str | None) -> None:
        """Records how an attempt ended."""
        self._append_event(
            {
                "event": "end",
                "attempt": attempt,
                "state": state,
                "step": step,
                "reason": reason,
                "seconds": round(time.monotonic() - self._started, 3),
            }
        )

    def record_rewind(
        self, *, to: int, set_aside: Sequence[str], skipped: Mapping[str, int] | None = None
    ) -> None:
        """Records that the run was taken back to a step, and the samples that it skips now."""
        self._append_event(
            {"event": "rewind", "to": to, "set_aside": [*set_aside], "skipped": skipped}
        )

    def record_event(self, event: str, **values: Any) -> None:
        """Appends another event to ``attempts.jsonl``."""
        self._append_event({"event": event, **values})

    def rewinds_before(self, attempt: int) -> list[dict[str, Any]]:
        """The rewinds between an attempt and the one before it, oldest first.

        Each has its number among all rewinds of the run as ``number``, from 1.
        """
        found: list[dict[str, Any]] = []
        number = 0
        for event in self._events():
            if event.get("event") == "start":
                if event.get("attempt") == attempt:
                    break
                found = []
            elif event.get("event") == "rewind":
                number += 1
                found.append({**event, "number": number})
        return found

    def count_events(self) -> int:
        """The number of events in ``attempts.jsonl``."""
        return sum(1 for _ in self._events())

    def count_rewinds(self) -> int:
        """How often the run was taken back to a step."""
        return sum(event.get("event") == "rewind" for event in self._events())

    def write_heartbeat(self, **values: Any) -> None:
        """Calls ``write_status`` at most once a second.

        An old time in a status of ``running`` means that the process crashed.
        """
        now = time.monotonic()
        if now - self._last_heartbeat >= 1.0:
            self._last_heartbeat = now
            self.write_status(**values)

    def load_status(self, *, is_strict: bool = False) -> dict[str, Any]:
        """The newest status without its time; empty if there is none that can be read.

        Args:
            is_strict: Whether an error of the file system is raised; a missing file is none.

        Raises:
            OSError: See `is_strict`.
        """
        try:
            status: dict[str, Any] = json.loads(self.status.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            if is_strict and isinstance(error, OSError) and not isinstance(error, _MISSING):
                raise
            return {}
        return {key: value for key, value in status.items() if key != "time"}

    def write_status(self, **values: Any) -> None:
        """Replaces ``status.json``, with the time added; NaN and infinity become null."""
        status = {**finite_values(values), "time": _now()}
        text = f"{json.dumps(status, indent=1)}\n"
        # A run folder that was removed while the run trains is not made again.
        write_file(self.status, text.encode(), makes_folder=False)

    def _events(self) -> Iterator[dict[str, Any]]:
        return read_lines(self.attempts) if self.attempts.is_file() else iter(())

    def _attempt_numbers(self) -> Iterator[int]:
        for file in self.path.glob("config-attempt-*.yaml"):
            number = file.stem.removeprefix("config-attempt-")
            if number.isdecimal():
                yield int(number)

    def _append_event(self, event: dict[str, Any]) -> None:
        with open_to_append(self.attempts) as file:
            file.write(json.dumps({**event, "time": _now()}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
