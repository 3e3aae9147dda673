"""Ends a long command when the user presses Ctrl-C, once or several times."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

EXIT_CODE = 130
"""The exit code that shells use for a command ended by an interrupt: 128 + SIGINT."""
_PATIENCE_SECONDS = 10.0


@contextmanager
def stop_when_interrupted() -> Iterator[None]:
    """Runs a job that can be continued later, and exits with 130 if it is interrupted.

    Further interrupts are ignored while the workers end; from ten seconds after the first on, an
    interrupt ends the process at once.

    Raises:
        typer.Exit: The job was interrupted.
    """
    if threading.current_thread() is not threading.main_thread():  # Other threads get no signals.
        yield
        return
    before = signal.signal(signal.SIGINT, _Interrupts().take)
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_CODE) from None  # The handler stays, because the process ends now.
    except BaseException:
        signal.signal(signal.SIGINT, before)
        raise
    signal.signal(signal.SIGINT, before)


class _Interrupts:
    def __init__(self) -> None:
        self._first: float | None = None

    def take(self, _: int, __: FrameType | None) -> None:
        if self._first is None:
            self._first = time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() - self._first > _PATIENCE_SECONDS:
            os._exit(EXIT_CODE)
