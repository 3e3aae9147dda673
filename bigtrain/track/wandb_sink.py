"""The wandb sink. It can never stop a run.

wandb runs in a separate process (`wandb_process`); a thread here sends events to it from a queue.
The training loop waits for neither. Every wait has a time limit.
"""

import json
import logging
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from bigtrain.config import RunConfig
from bigtrain.environment import environment_without
from bigtrain.track.tracker import Tracker, Value

log = logging.getLogger(__name__)
IMPORT_SECONDS = 60.0
"""Limit for importing wandb, which depends on the disk, not on a network."""
CONNECT_SECONDS = 5.5
"""Limit for finding out whether the server answers; switching to offline takes 2 or 3 s more."""
OPEN_SECONDS = 30.0
"""Limit for opening a run after that; it is long, because no training step waits for it."""
FINISH_SECONDS = 30.0
"""Limit for the last upload."""
FAILED_FINISH_SECONDS = 5.0
"""The same limit after a failure; it is shorter, so that the command ends soon."""
MAX_QUEUED = 10_000
"""Maximum number of queued records."""


class WandbError(RuntimeError):
    """wandb cannot be used; the message is one line and says why."""


class WandbTracker:
    """The wandb run of a run folder, the same for all its attempts."""

    def __init__(self, config: RunConfig, *, run_dir: Path, run_id: str) -> None:
        self._request = {
            "mode": config.track.wandb,
            "project": config.track.project,
            "name": config.name,
            "run_id": run_id,
            "run_dir": str(run_dir.absolute()),
            "config": config.model_dump(mode="json"),
        }
        self._run_dir, self._log_file = run_dir, run_dir / "logs" / "wandb.log"
        self._events: queue.Queue[dict[str, Any]] = queue.Queue(MAX_QUEUED)
        self._process: _Process | None = None
        self._has_given_up = False
        self._thread = threading.Thread(target=self._run, name="wandb", daemon=True)
        self._thread.start()

    def record(self, split: str, step: int, values: Mapping[str, Value]) -> None:
        """Sends the numbers of one step; never waits.

        Raises:
            WandbError: Too many records are waiting for wandb.
        """
        numbers = {f"{split}/{name}": value for name, value in values.items()}
        self._put({"step": step, **numbers})

    def finish(self, state: str) -> None:
        """Closes the run; wandb shows every end except a failure as a success.

        Raises:
            WandbError: wandb did not finish in time, and was killed.
        """
        is_failure = state == "failed"
        seconds = FAILED_FINISH_SECONDS if is_failure else FINISH_SECONDS
        self._put({"exit_code": int(is_failure)})
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise self._give_up(f"wandb did not finish within {seconds:g} s")

    def _put(self, event: dict[str, Any]) -> None:
        if not self._thread.is_alive():
            return  # The thread has logged why.
        try:
            self._events.put_nowait(event)
        except queue.Full:
            raise self._give_up(f"{MAX_QUEUED:,} records wait for wandb") from None

    def _give_up(self, why: str) -> WandbError:
        self._has_given_up = True
        if self._process is not None:
            self._process.kill()
        return WandbError(f"{why}; {self._remedy}")

    @property
    def _remedy(self) -> str:
        return f"metrics.jsonl has every step; see {self._log_file} for the output of wandb"

    def _run(self) -> None:
        """Runs in the thread: opens the wandb run, then sends the events to it."""
        try:
            process = self._open()
        except Exception as error:
            if not self._has_given_up:
                log.warning("wandb is off for this attempt: %s", error)
            return
        try:
            while "exit_code" not in (event := self._events.get()):
                process.send(event)
            process.send(event)
            process.receive(FINISH_SECONDS)
        except Exception as error:
            if not self._has_given_up:
                log.warning("wandb stopped recording: %s; %s", error, self._remedy)
        finally:
            process.kill()

    def _open(self) -> "_Process":
        """Opens the run as configured; if that fails, offline; then without the user's settings.

        Raises:
            WandbError: All of these failed.
        """
        requested, why = self._request["mode"], None
        tries = [(requested, None), ("offline", None), ("offline", self._run_dir)]
        for mode, clean_dir in tries[requested == "offline" :]:
            self._process = process = _Process(self._log_file, clean_dir=clean_dir)
            if self._has_given_up:  # It gave up before there was a process to kill.
                process.kill()
            try:
                opened = process.open({**self._request, "mode": mode})
            except WandbError as error:
                process.kill()
                why = why or str(error)
                if self._has_given_up or not process.has_imported:
                    break
            else:
                is_expected = requested == "auto" and not why
                self._log_opened(opened, why or opened["why"], is_expected=is_expected)
                return process
        raise WandbError(why)

    def _log_opened(self, opened: dict[str, Any], why: str | None, *, is_expected: bool) -> None:
        run_id = self._request["run_id"]
        if why is None:
            log.info("wandb %s, run id %s", opened["mode"], run_id)
            return
        # With `auto`, a missing key or network is normal.
        level = logging.INFO if is_expected else logging.WARNING
        line = "wandb offline, run id %s, because %s; `wandb sync %s` uploads it"
        log.log(level, line, run_id, why.rstrip("."), opened["folder"])


class _Process:
    """Starts the process that calls wandb, and exchanges messages with it."""

    def __init__(self, log_file: Path, *, clean_dir: Path | None = None) -> None:
        """Starts the process.

        Args:
            log_file: The file for its output.
            clean_dir: A folder to run in, where wandb does not find the user's settings.
        """
        environment = None
        if clean_dir is not None:
            folder = str(clean_dir.absolute())
            environment = {**environment_without("WANDB_"), "WANDB_CONFIG_DIR": folder}
        self.has_imported = False
        self._connection, child_end = Pipe()
        with child_end, log_file.open("ab") as output:
            module = (sys.executable, "-m", "bigtrain.track.wandb_process")
            # In its own session it does not receive the terminal's Ctrl-C.
            self._process = subprocess.Popen(
                (*module, str(child_end.fileno())),
                pass_fds=(child_end.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=clean_dir,
                start_new_session=True,
            )

    def open(self, request: dict[str, Any]) -> dict[str, Any]:
        """Opens a run and returns its ``mode``, its ``folder``, and ``why`` it is offline.

        Raises:
            WandbError: wandb failed, or did not open the run in time.
        """
        self.send(request)
        self.receive(IMPORT_SECONDS)
        self.has_imported = True
        self.receive(OPEN_SECONDS if request["mode"] == "offline" else CONNECT_SECONDS)
        return self.receive(OPEN_SECONDS)

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message; if the process has ended, raises with its last message.

        Raises:
            WandbError: The process has ended.
        """
        try:
            self._connection.send_bytes(json.dumps(message).encode())
        except OSError:
            self.receive(0.0)
            raise WandbError("the process of wandb has closed the connection") from None

    def receive(self, seconds: float) -> dict[str, Any]:
        """Waits for a message.

        Raises:
            WandbError: wandb failed, ended, or did not answer in time.
        """
        try:
            if not self._connection.poll(seconds):
                raise WandbError(f"wandb did not answer within {seconds:g} s")
            message: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise WandbError(f"the process of wandb ended with code {self._exit_code}") from None
        if "failed" in message:
            raise WandbError(message["failed"])
        return message

    def kill(self) -> None:
        """Kills the process."""
        self._process.kill()
        self._process.wait()

    @property
    def _exit_code(self) -> int | None:
        try:
            return self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return None


def open_wandb(config: RunConfig, run_dir: Path, run_id: str) -> Tracker | None:
    """Opens the wandb run in the background.

    Args:
        config: The run's config.
        run_dir: The run folder; wandb's files go into its ``wandb/``.
        run_id: The wandb id of this run folder.

    Returns:
        The sink; None if ``track.wandb`` is off.
    """
    if config.track.wandb == "off":
        return None
    return WandbTracker(config, run_dir=run_dir, run_id=run_id)
