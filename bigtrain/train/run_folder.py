"""A run folder tells its own story: config, attempts, status, metrics, checkpoints, logs."""

import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from bigtrain.checkpoint.folder import Folder
from bigtrain.checkpoint.locate import checkpoints_of_run
from bigtrain.config import RunConfig, render_config
from bigtrain.track.json_lines import finite_values, open_to_append


class RunBusyError(ValueError):
    """Another process trains this run; the message is one line and says which."""


class RunFolder:
    """The files of one run, written by rank 0 alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.status = path / "status.json"
        self.metrics = path / "metrics.jsonl"
        self.logs = path / "logs"
        self.wandb = path / "wandb"
        self.attempts = path / "attempts.jsonl"
        self._lock_file = path / "lock"
        self._lock: TextIO | None = None
        self._started = time.monotonic()
        self._last_heartbeat = 0.0

    @property
    def checkpoints(self) -> Folder:
        """Where the run's newest config keeps them."""
        return checkpoints_of_run(self.path)

    @property
    def last_checkpoint(self) -> str | None:
        """The last one that the run has told of; None where it told of none."""
        try:
            return json.loads(self.status.read_text(encoding="utf-8")).get("last_checkpoint")
        except (OSError, ValueError, AttributeError):
            return None

    def lock(self) -> None:
        """Keeps every other process from training this run, for the life of this one.

        Raises:
            RunBusyError: Another process does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self._lock_file.open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "another process"
            lock.close()
            raise RunBusyError(
                f"{self.path}: {owner} is training this run; wait for it, stop it, or give "
                "this run another name"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        self._lock = lock

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps every other process from training this run for a while.

        Raises:
            RunBusyError: One does.
        """
        other = RunFolder(self.path)
        other.lock()
        assert other._lock is not None
        try:
            yield
        finally:
            other._lock.close()

    def check_free(self) -> None:
        """Checks that nobody trains this run, without touching it.

        Raises:
            RunBusyError: Somebody does.
        """
        if self._lock_file.exists():
            with self.locked():
                pass

    def begin_attempt(
        self,
        config: RunConfig,
        *,
        world_size: int,
        step: int = 0,
        began_with: str | None = None,
        after: int = 0,
    ) -> int:
        """Notes that an attempt begins, and writes its config.

        Args:
            config: The run.
            world_size: Its ranks.
            step: Steps that lie behind it.
            began_with: The checkpoint that it goes on from, or takes its weights from.
            after: An attempt that was before it, though the folder may not know.

        Returns:
            The attempt's number, from 1.
        """
        for folder in (self.path, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        attempt = 1 + max(self.newest_attempt, after)
        text = render_config(config)
        write_atomically(self.path / f"config-attempt-{attempt}.yaml", text)
        write_atomically(self.config, text)
        self._note(
            {
                "event": "start",
                "attempt": attempt,
                "world_size": world_size,
                "step": step,
                "checkpoint": began_with,
                "process": os.getpid(),
                "host": socket.gethostname(),
            }
        )
        return attempt

    @property
    def newest_attempt(self) -> int:
        """The number of the newest attempt; 0 before the first."""
        return max(self._attempts(), default=0)

    def end_attempt(self, attempt: int, *, state: str, step: int, reason: str | None) -> None:
        """Notes how an attempt ended."""
        self._note(
            {
                "event": "end",
                "attempt": attempt,
                "state": state,
                "step": step,
                "reason": reason,
                "seconds": round(time.monotonic() - self._started, 3),
            }
        )

    def note_rewind(self, *, to: int, set_aside: Sequence[str]) -> None:
        """Notes that the run was taken back to a step."""
        self._note({"event": "rewind", "to": to, "set_aside": [*set_aside]})

    def write_heartbeat(self, **values: Any) -> None:
        """``write_status`` once a second: an old time in a running status means a crash."""
        now = time.monotonic()
        if now - self._last_heartbeat >= 1.0:
            self._last_heartbeat = now
            self.write_status(**values)

    def write_status(self, **values: Any) -> None:
        """Replaces ``status.json``, with the time; what is no number becomes null."""
        status = {**finite_values(values), "time": _now()}
        write_atomically(self.status, json.dumps(status, indent=1) + "\n")

    def wandb_id(self) -> str:
        """wandb's id of this run, made once."""
        file = self.path / "wandb_id"
        if not file.exists():
            write_atomically(file, secrets.token_hex(4) + "\n")
        return file.read_text().strip()

    def _attempts(self) -> Iterator[int]:
        for file in self.path.glob("config-attempt-*.yaml"):
            number = file.stem.removeprefix("config-attempt-")
            if number.isdecimal():
                yield int(number)

    def _note(self, event: dict[str, Any]) -> None:
        with open_to_append(self.attempts) as file:
            file.write(json.dumps({**event, "time": _now()}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file, or makes it, so that a kill leaves the old one or the new."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
