"""Collects the requests to stop a run: signals, a request file, and the job's time limit."""

import asyncio
import json
import logging
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bigtrain.config.run_files import REQUEST_FILE
from launcher.supervisor.interfaces import Scheduler
from launcher.supervisor.values import StopCause

logger = logging.getLogger(__name__)

REQUESTS = ("stop", "cancel", "requeue")
POLL_SECONDS = 1.0
ASK_SECONDS = 5.0
"""Limit for the scheduler's answer about lost nodes or killed ranks; else the run goes on."""
CANCEL_SECONDS = 20.0
"""Time to save after `bigtrain cancel`: SLURM kills a cancelled job half a minute later."""
LIMIT_MARGIN_SECONDS = 20.0
"""The ranks are killed this long before the time limit, so that the end is still recorded."""
KILL_MARGIN_SECONDS = 10.0
"""The same, before the scheduler kills a job that it ends."""
CLOCK_SECONDS, NO_CLOCK_SECONDS = 300.0, 60.0
"""How often the scheduler is asked when the time limit is, if it is known, and if it is not."""


@dataclass(slots=True)
class Stop:
    """A request to save and stop."""

    cause: StopCause
    name: str  # what asked, for messages and for the ranks: SIGINT, `bigtrain stop`, …
    signal: signal.Signals  # what the ranks get
    deadline: float | None = None  # when the ranks are killed, in seconds since the epoch


@dataclass(slots=True)
class StopWatch:
    """Waits for requests to stop. `requested` is set by the first; a second Ctrl-C sets `kill`.

    A user's request wins over all others, before and after it: the run is not continued then.
    """

    scheduler: Scheduler
    folder: Path  # the run folder, with the request file
    warning_seconds: float  # before the time limit
    requested: asyncio.Event = field(default_factory=asyncio.Event)
    kill: asyncio.Event = field(default_factory=asyncio.Event)
    stop: Stop | None = None
    is_by_user: bool = False  # by a request or Ctrl-C; SIGTERM alone does not show who sent it
    _interrupts: int = 0  # SIGINTs of this process
    _request_seen: str | None = None
    _kill_asked: float = -ASK_SECONDS  # on the monotonic clock
    _end_time: float | None = None
    _closed: bool = False
    _tasks: "set[asyncio.Task[None]]" = field(default_factory=set)
    _asking: "asyncio.Task[None] | None" = None  # why SIGTERM came
    _reading: "asyncio.Task[None] | None" = None  # whether SIGUSR2 came from `bigtrain requeue`
    _releasing: "asyncio.Task[None] | None" = None  # not cancelled by `close`

    def start(self) -> None:
        """Installs the handlers of signals, and begins to watch the file and the clock."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_own_signal, number.name)
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
        # A request that came while the job was ending must not be lost.
        await self._read_file()
        if self.stop is not None:
            await asyncio.to_thread((self.folder / REQUEST_FILE).unlink, missing_ok=True)

    async def settle(self) -> None:
        """Waits until it is known why a signal came."""
        for task in (self._asking, self._reading):
            if task is not None:
                await task

    async def ask_scheduler(self) -> None:
        """Finds out whether lost nodes or killed ranks are the scheduler's way to end the job.

        SLURM signals the tasks of a preempted job and not its batch script, and agents that have
        just been started die of that signal before they can report it. In the last seconds of a job
        it kills ranks and agents before the supervisor.
        """
        if self.stop is not None or self._closed:
            return
        cause: StopCause | None = None
        with suppress(TimeoutError):
            cause = await asyncio.wait_for(self.scheduler.why_ending(), ASK_SECONDS)
        if cause is not None:
            self._request(Stop(cause, "the scheduler", signal.SIGTERM))

    def _on_own_signal(self, name: str) -> None:
        # The agents report the signals of a whole job, too: those are no second Ctrl-C.
        self._interrupts += name == "SIGINT"
        if self._interrupts > 1 and self.stop is not None and not self._closed:
            self.kill.set()
        self.on_signal(name)

    def on_signal(self, name: str) -> None:
        """Handles a signal that this process or an agent received."""
        if self._closed:
            return
        match name:
            case "SIGUSR2":
                self._request(Stop(StopCause.TIME_LIMIT, name, signal.SIGUSR2, self._deadline()))
                # `bigtrain requeue` writes its request before it sends the signal.
                if self._reading is None:
                    self._reading = asyncio.get_running_loop().create_task(self._read_file())
            case "SIGINT" | "SIGHUP":
                self._request(Stop(StopCause.USER, name, signal.SIGTERM))
            case _:
                if self._asking is None:
                    # The ranks begin to save at once; the cause matters only at the end.
                    self._request(Stop(StopCause.USER, name, signal.SIGTERM))
                    self._asking = asyncio.get_running_loop().create_task(self._ask_for_cause())
                elif self._asking.done():
                    self._begin_to_ask_for_kill()  # After a preemption's time of grace.

    def _request(self, stop: Stop) -> None:
        is_by_user = stop.cause is StopCause.USER and stop.name != "SIGTERM"
        if self.stop is None:
            logger.warning("%s: the ranks save and stop", stop.name)
            self.stop = stop
            self.requested.set()
        elif is_by_user and not self.is_by_user:
            logger.warning("%s: the run is not continued", stop.name)
        if is_by_user:
            self.is_by_user, self.stop.cause = True, StopCause.USER
            self._limit(stop.deadline)
            self._release()

    def _limit(self, deadline: float | None) -> None:
        assert self.stop is not None
        if deadline is not None:
            self.stop.deadline = min(deadline, self.stop.deadline or deadline)

    def _release(self) -> None:
        """Cancels what would continue the run: the scheduler may kill this process soon."""
        if self._releasing is None:
            self._releasing = asyncio.get_running_loop().create_task(self.scheduler.release())

    def _deadline(self) -> float | None:
        if self._end_time is None:
            return None
        return self._end_time - min(LIMIT_MARGIN_SECONDS, self.warning_seconds / 3)

    async def _ask_for_cause(self) -> None:
        assert self.stop is not None
        await self._read_file()
        cause = await self.scheduler.why_terminated()
        if not self.is_by_user and (self.stop.name == "SIGTERM" or cause is StopCause.USER):
            self.stop.cause = cause
            logger.warning("SIGTERM means: %s", cause)
        if self.stop.cause is StopCause.USER:
            self._release()
        self._begin_to_ask_for_kill()

    def _begin_to_ask_for_kill(self) -> None:
        if self._closed or time.monotonic() - self._kill_asked < ASK_SECONDS:
            return  # Each agent reports the signal.
        self._kill_asked = time.monotonic()
        self._tasks.add(asyncio.get_running_loop().create_task(self._ask_for_kill()))

    async def _ask_for_kill(self) -> None:
        """Limits the time to save, so that the end is recorded before the scheduler kills all."""
        kill = await self.scheduler.kill_time()
        if kill is not None:
            left = kill - time.time()
            self._limit(kill - min(KILL_MARGIN_SECONDS, left / 2))

    async def _watch_file(self) -> None:
        if await asyncio.to_thread(self._read_request) == "requeue":
            # A supervisor that was killed left it; this start of the same job is the answer.
            await asyncio.to_thread((self.folder / REQUEST_FILE).unlink, missing_ok=True)
        while True:
            await self._read_file()
            await asyncio.sleep(POLL_SECONDS)

    async def _read_file(self) -> None:
        self._follow(await asyncio.to_thread(self._read_request))

    def _follow(self, request: str | None) -> None:
        if request is None or request == self._request_seen:
            return
        self._request_seen = request
        if request == "requeue":
            self._follow_requeue()
            return
        limit = time.time() + CANCEL_SECONDS if request == "cancel" else None
        self._request(Stop(StopCause.USER, f"bigtrain {request}", signal.SIGTERM, deadline=limit))

    def _follow_requeue(self) -> None:
        stop = self.stop
        if stop is None:
            name = "bigtrain requeue"
            self._request(Stop(StopCause.REQUEUE, name, signal.SIGUSR2, self._deadline()))
        elif stop.name == "SIGUSR2" and stop.cause is StopCause.TIME_LIMIT:
            stop.cause = StopCause.REQUEUE  # The command sends this signal as well.

    def _read_request(self) -> str | None:
        """The request of the file; None if there is no complete one for this job.

        A request for an earlier job of the run is not for this one.
        """
        with suppress(OSError, ValueError):
            fields = json.loads((self.folder / REQUEST_FILE).read_text(encoding="utf-8"))
            if isinstance(fields, dict) and fields.get("request") in REQUESTS:
                job = fields.get("job")
                if job is None or self.scheduler.job_id is None or job == self.scheduler.job_id:
                    return str(fields["request"])
        return None

    async def _watch_clock(self) -> None:
        while True:
            # Asked again and again, because an administrator may change the limit.
            self._end_time = await self.scheduler.end_time() or self._end_time
            pause = NO_CLOCK_SECONDS
            if self._end_time is not None:
                left = self._end_time - self.warning_seconds - time.time()
                if left <= 0:
                    break
                pause = min(left + 0.1, CLOCK_SECONDS)
            await asyncio.sleep(pause)
        self._request(
            Stop(StopCause.TIME_LIMIT, "the time limit", signal.SIGUSR2, self._deadline())
        )
