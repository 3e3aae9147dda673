"""A run folder tells its own story: config, attempts, status, metrics, checkpoints, logs."""

import fcntl
import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from bigtrain.checkpoint.run_checkpoints import (
    absolute_place,
    checkpoints_of_run,
    fork_command,
    original_of,
    path_word,
)
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.config import ConfigError, RunConfig, render_config
from bigtrain.config.saved import ATTEMPTS_FILE, CONFIG_FILE, load_run_of
from bigtrain.track.json_lines import finite_values, open_to_append, read_lines

log = logging.getLogger(__name__)

_LAUNCH = "config-launch-"


class RunBusyError(ValueError):
    """Another process trains this run; the message is one line and says which."""


class RunFolder:
    """The files of one run, written by rank 0 alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG_FILE
        self.status = path / "status.json"
        self.metrics = path / "metrics.jsonl"
        self.logs = path / "logs"
        self.wandb = path / "wandb"
        self.attempts = path / ATTEMPTS_FILE
        self._lock_file = path / "lock"
        self._wandb_id = path / "wandb_id"
        self._lock: TextIO | None = None
        self._started = time.monotonic()
        self._last_heartbeat = 0.0

    @property
    def checkpoints(self) -> Folder:
        """Where the run's newest config keeps them."""
        return checkpoints_of_run(self.path)

    def launch_words(self, *words: str) -> list[str]:
        """The command that goes on with this run, on as many processes as its newest attempt."""
        command = ["bigtrain", "launch", path_word(self.path), *words]
        starts = [note for note in self._notes() if note.get("event") == "start"]
        processes = starts[-1].get("world_size") if starts else None
        if processes in (None, load_run_of(self.path).parallel.model_parallel_size):
            return command
        return [*command, "--processes", str(processes)]

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

    def check_place(self) -> None:
        """Checks that the folder is there or can be made.

        Raises:
            ConfigError: A file is in its place.
        """
        for place in (self.path, *self.path.parents):
            if place.exists() and not place.is_dir():
                raise ConfigError(
                    f"{self.path}: {place} is a file, where the run folder would be; move it, or "
                    "set another name or runs_dir"
                )

    def no_run_here(self) -> str | None:
        """Why the folder holds no run, in one line; None where it holds one."""
        if self.config.is_file():
            return None
        if not self.path.exists():
            there = "there is no such folder"
        elif not self.path.is_dir():
            there = "it is a file"
        elif any(self.path.iterdir()):
            there = f"it holds no {CONFIG_FILE}"
        else:
            there = "it is an empty folder"
        return f"{self.path}: not a run folder, {there}; give one such as runs/gpt-tiny"

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
        checkpoints: Folder | None = None,
    ) -> int:
        """Notes that an attempt begins, and writes its config.

        Args:
            config: The run.
            world_size: Its ranks.
            step: Steps that lie behind it.
            began_with: The checkpoint that it goes on from, or takes its weights from.
            after: An attempt that was before it, though the folder may not know.
            checkpoints: Where they are, if not in this folder.

        Returns:
            The attempt's number, from 1.
        """
        for folder in (self.path, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self._part_from_original()
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
                "folder": str(self.path.resolve()),
                "checkpoints": None if checkpoints is None else absolute_place(checkpoints),
            }
        )
        self._clear_launches()
        return attempt

    @contextmanager
    def launch_file(self, config: RunConfig) -> Iterator[Path]:
        """Writes the config that was checked, for the ranks of one launch to read.

        Its name is of this launch alone: another one of this run may start at the same time.
        """
        file = self.path / f"{_LAUNCH}{secrets.token_hex(4)}.yaml"
        self.path.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as launch:
            fcntl.flock(launch, fcntl.LOCK_EX)  # Until this process ends, however it ends.
            launch.write(render_config(config))
            launch.flush()
            try:
                yield file
            finally:
                file.unlink(missing_ok=True)

    def _clear_launches(self) -> None:
        """Removes what launchers that were killed have left: their locks are gone."""
        for file in self.path.glob(f"{_LAUNCH}*"):
            with suppress(OSError), file.open("r+") as launch:
                fcntl.flock(launch, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()

    def _part_from_original(self) -> None:
        """Gives a copy of a run that is still there a wandb id of its own."""
        original = original_of(self.path)
        if original is None:
            return
        log.warning(
            "%s is a copy of %s: from here on it is a run of its own, in wandb too. A new run that "
            "begins with its checkpoint is `%s`",
            *(self.path, original, fork_command(original)),
        )
        with suppress(OSError):  # For example a folder of that name; `wandb_id` logs it.
            self._wandb_id.unlink(missing_ok=True)

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
        """wandb's id of this run, made once; made anew, with a warning, if it cannot be read."""
        try:
            known = self._wandb_id.read_text(encoding="utf-8").strip()
            if known:
                return known
            log.warning("%s is empty: wandb gets a run of its own from here on", self._wandb_id)
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read (%s): wandb gets a new run", self._wandb_id, error)
        new = secrets.token_hex(4)
        try:
            write_atomically(self._wandb_id, new + "\n")
        except OSError as error:
            log.warning("%s cannot be written: %s", self._wandb_id, error)
        return new

    def _notes(self) -> Iterator[dict[str, Any]]:
        return read_lines(self.attempts) if self.attempts.is_file() else iter(())

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
