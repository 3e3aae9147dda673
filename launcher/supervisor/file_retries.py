"""Repeats work that fails because files cannot be read or written for a time.

A shared file system may not answer for minutes, and then works again. Such an error of the
supervisor is neither the user's input nor a reason to end the run.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

logger = logging.getLogger("launcher.supervisor")

MAX_DELAY_SECONDS = 30.0
_Value = TypeVar("_Value")


class FilesUnavailableError(Exception):
    """Files could not be read or written for the whole time; the message is one line."""


@dataclass(frozen=True, slots=True)
class FileRetries:
    """How often and how long to try again."""

    limit_seconds: float = 300.0
    """Time from the first error to the last try."""
    stopped_seconds: float = 20.0
    """The same after a request to stop: SLURM ends the job soon."""
    first_delay: float = 1.0
    """Delay in seconds before the second try; each later one is twice as long, up to a limit."""

    def delays(self) -> Iterator[float]:
        """The delays, without end."""
        delay = self.first_delay
        while True:
            yield delay
            delay = min(2 * delay, MAX_DELAY_SECONDS)

    def call(self, work: Callable[[], _Value]) -> _Value:
        """Calls a function until it succeeds; for use before the event loop runs.

        Raises:
            OSError: That of the last try.
        """
        began: float | None = None
        for delay in self.delays():
            try:
                return work()
            except OSError as error:
                began = began or time.monotonic()
                if time.monotonic() - began + delay > self.limit_seconds:
                    raise
                logger.warning("%s; trying again in %.0f s", error, delay)
            time.sleep(delay)
        raise AssertionError

    async def run(self, work: Callable[[], _Value], stop: asyncio.Event) -> _Value:
        """Calls a function in a thread until it succeeds; see `run_async`."""
        return await self.run_async(lambda: asyncio.to_thread(work), stop)

    async def run_async(self, work: Callable[[], Awaitable[_Value]], stop: asyncio.Event) -> _Value:
        """Awaits work until it succeeds.

        Args:
            work: What reads or writes files; it may be repeated.
            stop: Set when the job is asked to stop, which shortens the limit.

        Raises:
            FilesUnavailableError: Every try raised an OSError, until the limit.
        """
        began: float | None = None
        for delay in self.delays():
            try:
                return await work()
            except OSError as error:
                began = began or time.monotonic()
                limit = self.stopped_seconds if stop.is_set() else self.limit_seconds
                passed = time.monotonic() - began
                if passed + delay > limit:
                    raise FilesUnavailableError(
                        f"the run's files could not be used for {passed:.0f} s: {error}"
                    ) from error
                logger.warning("%s; trying again in %.0f s", error, delay)
            if stop.is_set():
                await asyncio.sleep(delay)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), delay)
        raise AssertionError
