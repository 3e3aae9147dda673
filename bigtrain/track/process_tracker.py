"""A sink whose library runs in a separate process. It can never stop or delay a run.

A thread here sends the events from a queue to that process (`sink_process`). The training loop
waits for neither. Every wait has a time limit.
"""

import json
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, Protocol

from bigtrain.environment import environment_without
from bigtrain.track.tracker import Value

log = logging.getLogger(__name__)
IMPORT_SECONDS = 60.0
"""Limit for importing a library, which depends on the disk, not on a network."""
OPEN_SECONDS = 30.0
"""Limit for opening a run after that; it is long, because no training step waits for it."""
FINISH_SECONDS = 30.0
"""Limit for the last upload."""
FAILED_FINISH_SECONDS = 5.0
"""The same limit after a failure; it is shorter, so that the command ends soon."""
LINE_SECONDS = 1.0
"""How long a line of the process may wait for the log while there are no events."""
MAX_QUEUED = 10_000
"""Maximum number of queued records."""


class SinkError(RuntimeError):
    """A sink cannot be used; the message is one line and says why."""


class Start(Protocol):
    """Starts the process of a sink."""

    def __call__(self, *, clean_dir: Path | None = None) -> "SinkProcess":
        """Starts it; in ``clean_dir`` the library does not find the user's settings."""


class ProcessTracker:
    """Sends the events of a run to the process of a sink."""

    def __init__(
        self,
        name: str,
        *,
        module: str,
        log_file: Path,
        open_run: Callable[[Start], "SinkProcess"],
    ) -> None:
        """Starts the thread, which starts the process.

        Args:
            name: What the log calls the sink.
            module: The module that the process runs.
            log_file: The file for the output of the process.
            open_run: Starts the process and opens the run; may try several times.
        """
        self.name = name
        self._module, self._log_file, self._open_run = module, log_file, open_run
        self._events: queue.Queue[dict[str, Any]] = queue.Queue(MAX_QUEUED)
        self._process: SinkProcess | None = None
        self._has_given_up = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def record(self, split: str, step: int, values: Mapping[str, Value]) -> None:
        """Sends the numbers of one step; never waits.

        Raises:
            SinkError: Too many records are waiting.
        """
        numbers = {f"{split}/{name}": value for name, value in values.items()}
        self._put({"step": step, **numbers})

    def finish(self, state: str) -> None:
        """Closes the run.

        Raises:
            SinkError: The sink did not finish in time, and its process was killed.
        """
        seconds = FAILED_FINISH_SECONDS if state == "failed" else FINISH_SECONDS
        self._put({"end": state})
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise self._give_up(f"{self.name} did not finish within {seconds:g} s")

    def _put(self, event: dict[str, Any]) -> None:
        if not self._thread.is_alive():
            return  # The thread has logged why.
        try:
            self._events.put_nowait(event)
        except queue.Full:
            raise self._give_up(f"{MAX_QUEUED:,} records wait for {self.name}") from None

    def _give_up(self, why: str) -> SinkError:
        self._has_given_up = True
        if self._process is not None:
            self._process.kill()
        return SinkError(f"{why}; {self._remedy}")

    @property
    def _remedy(self) -> str:
        return f"metrics.jsonl has every step; see {self._log_file} for the output of {self.name}"

    def _run(self) -> None:
        """Runs in the thread: opens the run, then sends the events to its process."""
        try:
            process = self._open_run(self._start)
        except Exception as error:
            if not self._has_given_up:
                log.warning("%s is off for this attempt: %s", self.name, error)
            return
        try:
            while not self._send_next(process):
                process.log_lines()
            process.receive(FINISH_SECONDS)
        except Exception as error:
            if not self._has_given_up:
                log.warning("%s stopped recording: %s; %s", self.name, error, self._remedy)
        finally:
            process.kill()

    def _send_next(self, process: "SinkProcess") -> bool:
        """Sends the next event, if there is one soon; returns whether it was the end."""
        try:
            event = self._events.get(timeout=LINE_SECONDS)
        except queue.Empty:
            return False
        process.send(event)
        return "end" in event

    def _start(self, *, clean_dir: Path | None = None) -> "SinkProcess":
        if self._has_given_up:
            raise SinkError("it was given up")
        process = SinkProcess(
            self.name, module=self._module, log_file=self._log_file, clean_dir=clean_dir
        )
        self._process = process
        if self._has_given_up:  # It gave up before there was a process to kill.
            process.kill()
        return process


class SinkProcess:
    """Starts the process of a sink, and exchanges messages with it."""

    def __init__(
        self, name: str, *, module: str, log_file: Path, clean_dir: Path | None = None
    ) -> None:
        """Starts the process.

        Args:
            name: The sink's name, for messages.
            module: The module to run; its argument is the number of a file descriptor.
            log_file: The file for its output.
            clean_dir: A folder to run in, where the library does not find the user's settings.
        """
        self._name = name
        environment = None
        if clean_dir is not None:
            folder = str(clean_dir.absolute())
            environment = {**environment_without("WANDB_"), "WANDB_CONFIG_DIR": folder}
        self.has_imported = False
        self._connection, child_end = Pipe()
        with child_end, log_file.open("ab") as output:
            # In its own session it does not receive the terminal's Ctrl-C.
            self._process = subprocess.Popen(
                (sys.executable, "-m", module, str(child_end.fileno())),
                pass_fds=(child_end.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=clean_dir,
                start_new_session=True,
            )

    def open(self, request: dict[str, Any]) -> None:
        """Sends the request, and waits until the process has imported its library.

        Raises:
            SinkError: The import failed, or took too long.
        """
        self.send(request)
        self.receive(IMPORT_SECONDS)
        self.has_imported = True

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message; if the process has ended, raises with its last message.

        Raises:
            SinkError: The process has ended.
        """
        try:
            self._connection.send_bytes(json.dumps(message).encode())
        except OSError:
            self.receive(0.0)
            raise SinkError(f"the process of {self._name} has closed the connection") from None

    def receive(self, seconds: float) -> dict[str, Any]:
        """Waits for a message that is not a line for the log.

        Raises:
            SinkError: The library failed, the process ended, or it did not answer in time.
        """
        deadline = time.monotonic() + seconds
        while self._connection_has_data(max(0.0, deadline - time.monotonic())):
            message = self._read()
            if message:
                return message
        raise SinkError(f"{self._name} did not answer within {seconds:g} s")

    def log_lines(self) -> None:
        """Logs the lines that have arrived.

        Raises:
            SinkError: The library failed, or the process ended.
        """
        while self._connection_has_data(0.0):
            self._read()

    def kill(self) -> None:
        """Kills the process."""
        self._process.kill()
        self._process.wait()

    def _connection_has_data(self, seconds: float) -> bool:
        try:
            return self._connection.poll(seconds)
        except OSError:
            raise self._ended() from None

    def _read(self) -> dict[str, Any]:
        """Reads a message and logs its lines; returns its other fields."""
        try:
            message: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise self._ended() from None
        if "failed" in message:
            raise SinkError(message["failed"])
        if (line := message.pop("info", None)) is not None:
            log.info("%s", line)
        if (line := message.pop("warning", None)) is not None:
            log.warning("%s", line)
        return message

    def _ended(self) -> SinkError:
        try:
            code = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            code = None
        return SinkError(f"the process of {self._name} ended with code {code}")
