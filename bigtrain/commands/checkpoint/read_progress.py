"""Progress of a long read: a bar with rate and time left on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

Advance = Callable[[int], None]
"""Takes the number of bytes just read."""

_LINE_SECONDS = 10.0


@contextmanager
def show_progress(what: str, total_bytes: int) -> Iterator[Advance]:
    """Yields a function that takes the number of bytes just read; shows progress on stderr."""
    if not sys.stderr.isatty():
        yield _Lines(what, total_bytes).advance
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
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total_bytes)
        yield lambda done: bar.advance(task, done)


class _Lines:
    def __init__(self, what: str, total_bytes: int) -> None:
        self._what, self._total, self._done = what, max(1, total_bytes), 0
        self._start = self._last_line = time.monotonic()

    def advance(self, done: int) -> None:
        self._done += done
        now = time.monotonic()
        if now - self._last_line < _LINE_SECONDS:
            return
        self._last_line = now
        rate = self._done / max(1e-9, now - self._start)
        typer.echo(
            f"{self._what}: {self._done / self._total:.0%}, {rate / 1e6:,.0f} MB/s, "
            f"{(self._total - self._done) / max(1e-9, rate):,.0f} s left",
            err=True,
        )
