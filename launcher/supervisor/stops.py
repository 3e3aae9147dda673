"""Collects the requests to stop a run: signals, a request file, and the job's time limit."""

import asyncio
import json
import logging
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from launcher.supervisor.interfaces import Scheduler
from launcher.supervisor.values import StopCause

logger = logging.getLogger(__name__)

REQUEST_FILE = "request.json"
POLL_SECONDS = 1.0
ASK_SECONDS = 5.0
"""Limit for the scheduler's answer about lost nodes; while it is down the run goes on without."""
CANCEL_SECONDS = 20.0
"""Time to save after `bigtrain cancel`: SLURM kills a cancelled job half a minute later."""
FAREWELL_SECONDS = 20.0
"""The ranks are killed this long before the time limit, so that the end is still recorded."""


@dataclass(slots=True)
class Stop:
    """A request to save and stop."""

    cause: StopCause
    name: str  # what asked, for messages and for the ranks: SIGINT, `bigtrain stop`, …
    signal: signal.Signals  # what the ranks get
    deadline: float | None = None  # when the ranks are killed, in seconds since the epoch


@dataclass(slots=True)
class StopWatch:
    """Waits for requests to stop. `requested` is set by the first; a second Ctrl-C sets `kill`."""

    scheduler: Scheduler
    folder: Path  # the run folder, with the request file
    warning_seconds: float  # before the time limit
    requested: asyncio.Event = field(default_factory=asyncio.Event)
    kill: asyncio.Event = field(default_factory=asyncio.Event)
    stop: Stop | None = None
    _end_time: float | None = None
    _closed: bool = False
    _tasks: "set[asyncio.Task[None]]" = field(default_factory=set)
    _asking: "asyncio.Task[None] | None" = None  # why SIGTERM came

    def start(self) -> None:
        """Installs the handlers of signals, and begins to watch the file and the clock."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.on_signal, number.name)
        self._tasks = {
            loop.create_task(self._watch_file()),
            loop.create_task(self._watch_clock()),
        }

    async def close(self) -> None:
        """Stops watching, and removes the request that was followed."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await self.settle()
        if self.stop is not None:
            await asyncio.to_thread((self.folder / REQUEST_FILE).unlink, missing_ok=True)

    async def settle(self) -> None:
        """Waits until it is known why SIGTERM came."""
        if self._asking is not None:
            await self._asking

    async def ask_scheduler(self) -> None:
        """Finds out whether lost nodes are the scheduler's way to end the job.

        SLURM signals the tasks of a preempted job and not its batch script, and agents that have
        just been started die of that signal before they can report it.
        """
        if self.stop is not None or self._closed:
            return
        cause = StopCause.USER
        with suppress(TimeoutError):
            cause = await asyncio.wait_for(self.scheduler.why_terminated(), ASK_SECONDS)
        if cause is not StopCause.USER:
            self._request(Stop(cause, "the scheduler", signal.SIGTERM))

    def on_signal(self, name: str) -> None:
        """Handles a signal that this process or an agent received."""
        if self._closed:
            return
        match name:
            case "SIGUSR2":
                self._request(Stop(StopCause.TIME_LIMIT, name, signal.SIGUSR2, self._deadline()))
            case "SIGINT" | "SIGHUP":
                if self.stop is not None and name == "SIGINT":
                    self.kill.set()
                self._request(Stop(StopCause.USER, name, signal.SIGTERM))
            case _:
                if self._asking is None:
                    # The ranks begin to save at once; the cause matters only at the end.
                    self._request(Stop(StopCause.USER, name, signal.SIGTERM))
                    self._asking = asyncio.get_running_loop().create_task(self._ask_for_cause())

    def _request(self, stop: Stop) -> None:
        if self.stop is None:
            logger.warning("%s: the ranks save and stop", stop.name)
            self.stop = stop
            self.requested.set()
        elif stop.cause is StopCause.USER and self._asking is None and stop.name != "SIGTERM":
            self.stop.cause = StopCause.USER

    def _deadline(self) -> float | None:
        if self._end_time is None:
            return None
        return self._end_time - min(FAREWELL_SECONDS, self.warning_seconds / 3)

    async def _ask_for_cause(self) -> None:
        assert self.stop is not None
        request = await asyncio.to_thread(self._read_request)
        if request is not None:
            return
        cause = await self.scheduler.why_terminated()
        if self.stop.name == "SIGTERM":
            self.stop.cause = cause
            logger.warning("SIGTERM means: %s", cause)
        elif cause is StopCause.USER:
            self.stop.cause = cause

    async def _watch_file(self) -> None:
        while self.stop is None:
            request = await asyncio.to_thread(self._read_request)
            if request is not None:
                limit = time.time() + CANCEL_SECONDS if request == "cancel" else None
                self._request(
                    Stop(StopCause.USER, f"bigtrain {request}", signal.SIGTERM, deadline=limit)
                )
            await asyncio.sleep(POLL_SECONDS)

    def _read_request(self) -> str | None:
        """The request of the file: stop or cancel; None if there is no complete one for this job.

        A request for an earlier job of the run is not for this one.
        """
        with suppress(OSError, ValueError):
            fields = json.loads((self.folder / REQUEST_FILE).read_text(encoding="utf-8"))
            if isinstance(fields, dict) and fields.get("request") in ("stop", "cancel"):
                job = fields.get("job")
                if job is None or self.scheduler.job_id is None or job == self.scheduler.job_id:
                    return str(fields["request"])
        return None

    async def _watch_clock(self) -> None:
        while (end := await self.scheduler.end_time()) is not None:
            self._end_time = end
            left = end - self.warning_seconds - time.time()
            if left <= 0:
                stop = Stop(
                    StopCause.TIME_LIMIT, "the time limit", signal.SIGUSR2, self._deadline()
                )
                self._request(stop)
                return
            # Asked again at the end, because an administrator may have extended the limit.
            await asyncio.sleep(left + 0.1)
