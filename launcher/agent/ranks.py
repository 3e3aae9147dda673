"""The ranks that one agent runs for its supervisor: start, signals, heartbeats, stacks, ends."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from launcher.agent.disk_thread import start_in_thread
from launcher.agent.heartbeats import HeartbeatSocket
from launcher.agent.messages import (
    MAX_TEXT,
    Heartbeat,
    Message,
    RankEnded,
    RanksEnded,
    RankStacks,
    Start,
    StartFailed,
    shorten,
)
from launcher.agent.stacks import dump_stacks, read_collectives
from launcher.agent.torchrun import load_rank_ends, stacks_file, torchrun_command
from launcher.environment import rank_environment
from launcher.failures import RankEnd
from launcher.orphans import no_orphans
from launcher.processes import is_descendant
from launcher.ranks import RankCommand, RankProcess, error_file, log_file, open_log, start_rank

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
KILLED_SECONDS = 5.0
"""Limit for reading why a rank ended that was killed; the supervisor waits 15 s for its end."""
SHORTEST_GAP = 0.1
"""Seconds between two heartbeats to the supervisor, at least."""
MAX_TRACEBACK = 4000
"""Characters of a traceback's end that the supervisor receives."""


@dataclass(slots=True)
class _Generation:
    """The ranks of one start."""

    start: Start
    ranks: tuple[int, ...]  # numbers of the ranks
    processes: dict[int, RankProcess] = field(default_factory=dict)  # those that run
    cleanup: ExitStack = field(default_factory=ExitStack)
    is_started: bool = False
    early: list[signal.Signals] = field(default_factory=list)  # that came before it was started
    killed: asyncio.Event = field(default_factory=asyncio.Event)  # SIGKILL was asked for
    num_ending: int = 0  # ranks that have ended, and whose files are still being read

    @property
    def uses_torchrun(self) -> bool:
        return bool(self.start.torchrun)


_OpenedLogs = list[tuple[RankCommand, IO[bytes] | None]]


class AgentRanks:
    """Starts ranks when the supervisor asks for it, and tells it what happens to them.

    Use it from the event loop of the main thread.
    """

    def __init__(self, folder: Path, send: Callable[[Message], None]) -> None:
        self._folder, self._send = folder, send
        self._loop = asyncio.get_running_loop()
        self._socket = HeartbeatSocket(folder / "heartbeats")
        self._loop.add_reader(self._socket.fileno(), self._receive)
        self._running: _Generation | None = None
        self._ended = asyncio.Event()
        self._ended.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening = threading.Lock()  # held by the thread that opens logs
        self._last_beat = 0.0
        self._timer = self._loop.call_later(HEARTBEAT_SECONDS, self._tick)

    def close(self) -> None:
        """Stops listening for heartbeats. No rank may run."""
        self._timer.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def start(self, start: Start) -> None:
        """Starts the ranks of a generation."""
        if self._running is not None:
            message = f"ranks of an earlier start ({self._running.start.generation}) still run"
            self._send(StartFailed(start.generation, message))
            return
        ranks = tuple(int(environment["RANK"]) for environment in start.environments)
        running = self._running = _Generation(start, ranks)
        self._ended.clear()
        self._socket.expect(ranks)
        running.cleanup.enter_context(no_orphans())
        self._run(self._start(running))

    async def _start(self, running: _Generation) -> None:
        """Starts the ranks once their logs are open, unless they are to be killed before."""
        opening = start_in_thread(lambda: self._open_logs(running))
        await self._wait_unless_killed(opening, running)
        try:
            for command, log in opening.result() if not running.killed.is_set() else ():
                rank = start_rank(command, self._report_exit, log=log)
                running.processes[command.rank] = rank
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            message = f"{where}{error.strerror or error}"
            self._send(StartFailed(running.start.generation, message))
            self.send_signal(signal.SIGKILL)
        finally:
            opening.add_done_callback(_close_logs)
        running.is_started = True
        for number in running.early:
            self.send_signal(number)
        await self._finish_after_last(running)

    def _open_logs(self, running: _Generation) -> _OpenedLogs:
        """Prepares the files of the ranks, in a thread: a shared disk may hang for minutes."""
        # One thread at a time, so that a late one does not remove files of later ranks.
        with self._opening, ExitStack() as opened:
            Path(running.start.log_dir).mkdir(parents=True, exist_ok=True)
            found = []
            for command in self._commands(running) if not running.killed.is_set() else ():
                if (log := open_log(command)) is not None:
                    opened.enter_context(log)
                found.append((command, log))
            opened.pop_all()
            return found

    async def _wait_unless_killed(
        self, work: "asyncio.Future[Any]", running: _Generation, *, more_seconds: float = 0.0
    ) -> None:
        """Waits for work, but after the ranks were killed only for `more_seconds`."""
        killed = asyncio.create_task(running.killed.wait())
        await asyncio.wait((work, killed), return_when=asyncio.FIRST_COMPLETED)
        killed.cancel()
        await asyncio.wait((work,), timeout=more_seconds)

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal to the ranks that run; those that start now get it when they run."""
        running = self._running
        if running is not None and number is signal.SIGKILL:
            running.killed.set()
        elif running is not None and not running.is_started:
            running.early.append(number)
        for rank in list(running.processes.values()) if running else ():
            with suppress(ProcessLookupError):
                if number is signal.SIGKILL:
                    rank.kill()
                elif running is not None and running.uses_torchrun:
                    self._signal_under_torchrun(running, rank, number)
                else:
                    rank.send(number)

    def dump_stacks(self, generation: int) -> None:
        """Collects the stacks of the ranks in the background, and sends them."""
        if self._running is not None and self._running.start.generation == generation:
            self._run(self._send_stacks(self._running))

    async def stop(self, *, grace_seconds: float) -> None:
        """Lets the ranks save and end; kills them after `grace_seconds`."""
        self.send_signal(signal.SIGTERM)
        await self._wait(grace_seconds)
        await self.kill()

    async def kill(self) -> None:
        """Kills the ranks, and waits until they have ended."""
        self.send_signal(signal.SIGKILL)
        await self._wait(10)

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)

    def _commands(self, running: _Generation) -> list[RankCommand]:
        start, log_dir = running.start, Path(running.start.log_dir)
        inherited = rank_environment()
        # The number of threads is a default, which the user or the profile may have set.
        kept = {name: inherited[name] for name in ("OMP_NUM_THREADS",) if name in inherited}
        given = [{**inherited, **each, **kept} for each in start.environments]
        for rank, environment in zip(running.ranks, given, strict=True):
            environment["BIGTRAIN_HEARTBEAT_SOCKET"] = str(self._socket.path)
            environment["BIGTRAIN_STACKS_FILE"] = str(self._stacks_file(rank))
            self._stacks_file(rank).unlink(missing_ok=True)
            error_file(log_dir, rank).unlink(missing_ok=True)
        if running.uses_torchrun:
            command = torchrun_command(start, stacks_folder=self._folder)
            log = log_dir / f"torchrun-{running.ranks[0]}.log" if running.ranks[0] else None
            file = error_file(log_dir, running.ranks[0])
            return [RankCommand(running.ranks[0], command, given[0], file, log)]
        return [
            RankCommand(
                rank=rank,
                command=start.command,
                environment=environment,
                error_file=error_file(log_dir, rank),
                log=log_file(log_dir, rank) if rank else None,
            )
            for rank, environment in zip(running.ranks, given, strict=True)
        ]

    def _stacks_file(self, rank: int) -> Path:
        return stacks_file(self._folder, rank)

    def _signal_under_torchrun(
        self, running: _Generation, torchrun: RankProcess, number: signal.Signals
    ) -> None:
        """Signals the ranks themselves: torchrun would kill them half a minute after a SIGTERM."""
        pids = [self._socket.pid(rank) for rank in running.ranks]
        if None in pids:  # Not all ranks handle signals yet.
            torchrun.send(signal.SIGTERM)
            return
        for pid in pids:
            if pid is not None and is_descendant(pid, torchrun.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _report_exit(self, rank: int, ended: float) -> None:
        with suppress(RuntimeError):  # The loop has been closed.
            self._loop.call_soon_threadsafe(self._on_exit, rank, ended)

    def _on_exit(self, rank: int, ended: float) -> None:
        running = self._running
        assert running is not None
        process = running.processes.pop(rank)
        self._socket.receive()
        self._beat()  # With the last step of the rank.
        running.num_ending += 1
        self._run(self._report_ends(running, process, ended))

    async def _report_ends(self, running: _Generation, process: RankProcess, ended: float) -> None:
        """Reports how a process ended, with what its files say about it."""
        reading = start_in_thread(lambda: _load_ends(running, process, ended))
        await self._wait_unless_killed(reading, running, more_seconds=KILLED_SECONDS)
        if reading.done():
            ends = reading.result()
        else:
            end = process.load_end(ended, reads_files=False)
            ends = [replace(end, rank=rank) for rank in _ranks_of(running, process)]
        for each in ends:
            self._socket.forget(each.rank)
            self._send(RankEnded(running.start.generation, _short(each)))
        running.num_ending -= 1
        await self._finish_after_last(running)

    async def _finish_after_last(self, running: _Generation) -> None:
        if running.processes or running.num_ending:
            return
        # In a thread, because it waits for processes that are killed.
        await asyncio.to_thread(running.cleanup.close)
        self._running = None
        self._socket.expect(())
        self._send(RanksEnded(running.start.generation))
        self._ended.set()

    async def _send_stacks(self, running: _Generation) -> None:
        pids = {
            rank: self._socket.pid(rank) or running.processes[rank].pid
            for rank in running.ranks
            if rank in running.processes or self._socket.pid(rank)
        }
        files = {rank: self._stacks_file(rank) for rank in pids}
        found = await asyncio.to_thread(dump_stacks, pids, files)
        collectives = await asyncio.to_thread(read_collectives, files)
        for rank in running.ranks:
            why = "the process has ended" if running.is_started else "its log is not open yet"
            state, text = found.get(rank, ("", why))
            text, pid = shorten(text, MAX_TEXT), pids.get(rank, 0)
            last = collectives.get(rank, "")
            self._send(RankStacks(running.start.generation, rank, pid, state, text, last))

    def _receive(self) -> None:
        if self._socket.receive():
            left = self._last_beat + SHORTEST_GAP - self._loop.time()
            self._timer.cancel()
            self._timer = self._loop.call_later(max(0.0, left), self._tick)

    def _tick(self) -> None:
        self._beat()
        self._timer = self._loop.call_later(HEARTBEAT_SECONDS, self._tick)

    def _beat(self) -> None:
        self._last_beat = self._loop.time()
        generation = self._running.start.generation if self._running else 0
        self._send(Heartbeat(generation, self._socket.beats()))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _close_logs(opening: "asyncio.Future[_OpenedLogs]") -> None:
    """Closes the logs that a thread has opened; the ranks that were started have their own."""
    for _, log in opening.result() if opening.exception() is None else ():
        if log is not None:
            log.close()


def _ranks_of(running: _Generation, process: RankProcess) -> tuple[int, ...]:
    return running.ranks if running.uses_torchrun else (process.rank,)


def _load_ends(running: _Generation, process: RankProcess, ended: float) -> list[RankEnd]:
    end = process.load_end(ended)
    if not running.uses_torchrun:
        return [end]
    return load_rank_ends(end, running.ranks, Path(running.start.log_dir))


def _short(end: RankEnd) -> RankEnd:
    if end.report is None:
        return end
    report = replace(
        end.report,
        message=end.report.message[:MAX_TRACEBACK],
        traceback=shorten(end.report.traceback, MAX_TRACEBACK),
    )
    return replace(end, report=report)
