"""How far a long job is: a bar on a terminal, log lines elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

Advance = Callable[[int], None]

_LINE_SECONDS = 10.0
logger = logging.getLogger(__name__)


@contextmanager
def show_progress(what: str, total_bytes: int) -> Iterator[Advance]:
    """Gives a function that takes the number of bytes just done and shows rate and time left."""
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total_bytes)
            yield lambda done: bar.advance(task, done)
    else:
        yield _LogLines(what, total_bytes).advance


class _LogLines:
    def __init__(self, what: str, total_bytes: int) -> None:
        self._what = what
        self._total = max(1, total_bytes)
        self._done = 0
        self._start = self._last_line = time.monotonic()

    def advance(self, done: int) -> None:
        self._done += done
        now = time.monotonic()
        if now - self._last_line < _LINE_SECONDS and self._done < self._total:
            return
        self._last_line = now
        rate = self._done / max(1e-9, now - self._start)
        logger.info(
            "%s: %.0f%%, %.1f MB/s, %.0f s left",
            self._what,
            100 * self._done / self._total,
            rate / 1e6,
            (self._total - self._done) / rate,
        )
