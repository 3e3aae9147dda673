"""Work in a thread beside training. No torch."""

import threading
from collections.abc import Callable


class BackgroundTask:
    """Work in a thread, which starts at once and whose error is kept."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self._done = threading.Event()
        self._work = work
        # A daemon: the process may end meanwhile, and what is half written has no commit.
        threading.Thread(target=self._run, daemon=True, name="checkpoint").start()

    @property
    def is_done(self) -> bool:
        """Whether it has ended, well or with an error."""
        return self._done.is_set()

    def wait(self, seconds: float | None = None) -> None:
        """Returns when it has ended, or after so many seconds."""
        self._done.wait(seconds)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # Whatever it is, others wait for the end.
            self.error = error
        finally:
            self._done.set()
