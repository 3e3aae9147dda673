"""Runs a function in a background thread while training continues. No torch."""

import threading
from collections.abc import Callable


class BackgroundTask:
    """A function that runs in a thread, started at once; its error is kept."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self._done = threading.Event()
        self._work = work
        # A daemon thread: if the process ends first, what it wrote has no commit.
        threading.Thread(target=self._run, daemon=True, name="checkpoint").start()

    @property
    def is_done(self) -> bool:
        """Whether the function has ended, with or without an error."""
        return self._done.is_set()

    def wait(self, seconds: float | None = None) -> None:
        """Waits until the function has ended, at most ``seconds``."""
        self._done.wait(seconds)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # Of any kind: other threads wait for the end.
            self.error = error
        finally:
            self._done.set()
