"""How a long command ends when somebody interrupts it: soon, whatever they press."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

EXIT_CODE = 130
"""What shells give for a command that an interrupt ended: 128 + SIGINT."""
_PATIENCE_SECONDS = 10.0


@contextmanager
def stop_when_interrupted() -> Iterator[None]:
    """Runs a job that can go on later; the front door says so if it is interrupted.

    Interrupts after the first do not disturb the end of the workers; after ten seconds, one ends
    the process on the spot.

    Raises:
        typer.Exit: It was interrupted.
    """
    if threading.current_thread() is not threading.main_thread():  # It gets no signals.
        yield
        return
    before = signal.signal(signal.SIGINT, _Interrupts().take)
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_CODE) from None  # The handler stays: nothing but the end follows.
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
