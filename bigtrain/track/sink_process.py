"""The side of a sink that runs in its own process, so that its library cannot affect training.

`process_tracker` starts the process and sends JSON messages: a request, the numbers of each step,
the end. If the library raises, calls ``sys.exit`` or hangs, only this process is affected.
"""

import json
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol

from bigtrain.track.ignored_signals import ignore_signals

ABANDONED_SECONDS = 10.0
"""Time for the upload after the training process has died."""
MAX_MESSAGES = 500
"""Most messages that a backend gets in one call."""

Message = dict[str, Any]
Report = Callable[..., None]
"""Sends a message to the training process; the fields are keyword arguments.

``info`` and ``warning`` are lines for its log.
"""


class Backend(Protocol):
    """Calls one library; any method may raise, which ends the process and is reported."""

    idle_seconds: float | None
    """`log` is also called without messages after this time without any; None: never."""

    def open(self, request: Message, report: Report) -> None:
        """Opens the run."""

    def log(self, messages: list[Message]) -> None:
        """Records messages such as ``{"step": 3, "train/loss": 1.5}``."""

    def finish(self, state: str) -> None:
        """Closes the run: ``finished``, ``stopped`` or ``failed``."""

    def describe(self, error: BaseException) -> str:
        """One line for the user about an error of this backend."""


def serve(connection: Connection, backend: Backend) -> None:
    """Opens the run that the first message describes, records the others, and ends the process."""
    # SLURM sends signals to every process of a job. This one, and programs that the library starts,
    # must end after the training process.
    problem = ""
    try:
        ignore_signals((signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP))
    except OSError as error:
        problem = f"{error}: a preemption may end what the sink starts before the last steps arrive"

    def report(**message: Any) -> None:
        try:
            connection.send_bytes(json.dumps(message).encode())
        except OSError:
            if "failed" in message or "finished" in message:
                os._exit(1)
            # The training process has died: what has arrived is still recorded.

    if problem:
        report(warning=problem)
    try:
        backend.open(json.loads(connection.recv_bytes()), report)
        _record(connection, backend)
        report(finished=True)
        os._exit(0)
    except BaseException as error:  # A library may call sys.exit.
        report(failed=backend.describe(error))
        os._exit(1)  # Exit handlers of a library may hang.


def _record(connection: Connection, backend: Backend) -> None:
    while True:
        messages, state = _receive(connection, backend.idle_seconds)
        backend.log(messages)
        if state is not None:
            backend.finish(state)
            return


def _receive(connection: Connection, seconds: float | None) -> tuple[list[Message], str | None]:
    """The messages that have arrived, and how the attempt ended if it has ended."""
    messages: list[Message] = []
    while len(messages) < MAX_MESSAGES and connection.poll(0.0 if messages else seconds):
        try:
            message = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            threading.Timer(ABANDONED_SECONDS, os._exit, (1,)).start()
            return messages, "failed"
        if "end" in message:
            return messages, message["end"]
        messages.append(message)
    return messages, None


def one_line(error: BaseException, *, limit: int = 300) -> str:
    """An error's type and text on one line of at most ``limit`` characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:limit]
