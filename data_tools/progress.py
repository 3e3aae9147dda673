"""Shows the progress of a long job: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]
"""Takes the number of bytes just done."""

_LINE_SECONDS = 10.0
logger = logging.getLogger(__name__)


@contextmanager
def show_progress(
    what: str,
    total_bytes: int,
    *,
    write_line: Callable[[str], None] = logger.info,
    transient: bool = False,
) -> Iterator[Advance]:
    """Shows progress, rate and time left; yields a function that takes the bytes just done.

    Args:
        what: The name of the job, such as "sharding".
        total_bytes: The size of the job.
        write_line: Writes a line every ten seconds if standard error is not a terminal.
        transient: Whether the bar is removed at the end, and no last line is written elsewhere.
    """
    if not sys.stderr.isatty():
        yield _Lines(what, total_bytes, write_line, has_last=not transient).advance
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=transient) as bar:
        task = bar.add_task(what, total=total_bytes)
        yield lambda done: bar.advance(task, done)


class _Lines:
    def __init__(
        self, what: str, total_bytes: int, write_line: Callable[[str], None], *, has_last: bool
    ) -> None:
        self._what, self._total, self._done = what, max(1, total_bytes), 0
        self._write_line, self._has_last = write_line, has_last
        self._start = self._last_line = time.monotonic()

    def advance(self, done: int) -> None:
        self._done += done
        now = time.monotonic()
        is_last = self._has_last and self._done >= self._total
        if now - self._last_line < _LINE_SECONDS and not is_last:
            return
        self._last_line = now
        rate = max(1e-9, self._done / max(1e-9, now - self._start))
        self._write_line(
            f"{self._what}: {self._done / self._total:.0%}, {rate / 1e6:,.1f} MB/s, "
            f"{(self._total - self._done) / rate:,.0f} s left"
        )
