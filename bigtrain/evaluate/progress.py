"""Shows how far an evaluation is: a bar on a terminal, plain lines elsewhere."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from bigtrain.track.console import console

log = logging.getLogger(__name__)

_LINE_SECONDS = 10.0

Advance = Callable[[int], None]
"""Takes the number of samples just done."""


@contextmanager
def show_samples(what: str, total: int, *, is_shown: bool) -> Iterator[Advance]:
    """Shows progress; yields a function that takes the number of samples just done.

    Args:
        what: The name of the corpus.
        total: Number of samples.
        is_shown: Whether this rank shows anything.
    """
    if not is_shown:
        yield lambda _: None
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.advance(task, done)
    else:
        yield _Lines(what, total).advance


class _Lines:
    """Logs a line every ten seconds, and one at the end."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._start = self._last_line = time.monotonic()

    def advance(self, done: int) -> None:
        self._done += done
        now = time.monotonic()
        if now - self._last_line < _LINE_SECONDS and self._done < self._total:
            return
        self._last_line = now
        seconds = now - self._start
        left = seconds / max(1, self._done) * (self._total - self._done)
        log.info(
            "%s: %d of %d samples in %.0f s, %.0f s left",
            *(self._what, self._done, self._total, seconds, left),
        )
