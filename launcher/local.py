"""Runs the ranks of one run on this machine, watches them, and reports which failed first.

The ends of the ranks and the launcher's own signals are put into one queue, so that a single loop
handles all events in order.
"""

import logging
import queue
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from launcher.environment import count_usable_cores, read_environment
from launcher.failures import RankEnd, RankFailure, find_first_failure, render_failure
from launcher.orphans import no_orphans
from launcher.ports import find_free_port
from launcher.ranks import (
    RankCommand,
    RankProcess,
    error_file,
    log_file,
    render_rank_environment,
    start_rank,
    stop_signal_file,
    threads_per_rank,
)

__all__ = [
    "LaunchResult",
    "LocalLaunch",
    "RankFailure",
    "render_environment",
    "render_failure",
    "run_local",
]

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
KILL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class LocalLaunch:
    """The ranks of one run on one machine."""

    command: tuple[str, ...]  # the command of every rank
    processes: int
    log_dir: Path
    threads_per_process: int | None = None  # None divides the cores evenly
    grace_seconds: float = 10  # after a rank failed, the time that the others have to end

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise ValueError(f"processes={self.processes}: a run needs at least one process")
        if self.threads_per_process is not None and self.threads_per_process < 1:
            raise ValueError(
                f"threads_per_process={self.threads_per_process}: give at least 1, or omit it"
            )
        if not self.command or shutil.which(self.command[0]) is None:
            raise ValueError(f"command={self.command}: there is no such program")


@dataclass(frozen=True, slots=True)
class LaunchResult:
    """How the ranks ended.

    `exit_code` is the exit code for the launcher: 0 if all ranks finished, or saved and stopped
    after SIGTERM or SIGUSR2; 130 after Ctrl-C; 2 if the rank that failed first exited with 2 (bad
    input); 1 for any other failure; 128 plus the signal if SIGTERM or SIGUSR2 came before the ranks
    could handle it, so that nothing was saved.
    """

    exit_code: int
    failure: RankFailure | None
    interrupted: bool
    stop_signal: str | None = field(default=None, compare=False)  # the name for users: Ctrl-C
    rank_zero_pid: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class _RankExit:
    """The end of a rank's process, reported by the thread that waits for it."""

    rank: int
    time: float


_Events = queue.SimpleQueue[_RankExit | signal.Signals]


def run_local(launch: LocalLaunch) -> LaunchResult:
    """Runs the ranks until all have ended; after that, none of their processes is running.

    Call it from the main thread: signals arrive there, and the ranks are stopped when the thread
    that started them ends. Ctrl-C, SIGTERM and SIGUSR2 ask the ranks to save and stop; another
    Ctrl-C kills them.

    Raises:
        OSError: A rank could not be started.
    """
    _prepare_log_dir(launch)
    events: _Events = queue.SimpleQueue()
    with _signals_into(events), no_orphans():
        ranks = _start_ranks(launch, events)
        watch = _Watch(
            ranks=ranks,
            grace_seconds=launch.grace_seconds,
            stop_signal_file=stop_signal_file(launch.log_dir),
        )
        watch.run(events)
    result = _build_result([watch.ends[rank] for rank in sorted(watch.ends)], watch.stop_signal)
    name = watch.stop_signal.name.replace("SIGINT", "Ctrl-C") if watch.stop_signal else None
    return replace(result, stop_signal=name, rank_zero_pid=ranks[0].pid)


def render_environment(
    launch: LocalLaunch, *, rank: int, port: int, cores: int, base: Mapping[str, str]
) -> dict[str, str]:
    """Renders the environment of one rank: `base`, with its rank and the number of ranks.

    If `base` has OMP_NUM_THREADS, its value is kept.
    """
    threads = launch.threads_per_process or threads_per_rank(cores, launch.processes)
    numbers = render_rank_environment(
        rank=rank,
        local_rank=rank,
        world_size=launch.processes,
        local_world_size=launch.processes,
        master=("127.0.0.1", port),
        log_dir=launch.log_dir.absolute(),
    )
    return {"OMP_NUM_THREADS": str(threads), **base, **numbers}


def _prepare_log_dir(launch: LocalLaunch) -> None:
    launch.log_dir.mkdir(parents=True, exist_ok=True)
    stop_signal_file(launch.log_dir).unlink(missing_ok=True)
    for stale in launch.log_dir.glob("rank-*.error.json"):
        stale.unlink()


@contextmanager
def _signals_into(events: _Events) -> Iterator[None]:
    def deliver(number: int, _frame: FrameType | None) -> None:
        events.put(signal.Signals(number))  # A SimpleQueue allows put while its get is running.

    before = {number: signal.signal(number, deliver) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start_ranks(launch: LocalLaunch, events: _Events) -> list[RankProcess]:
    port, cores, base = find_free_port(), count_usable_cores(), read_environment()
    ranks = []
    for rank in range(launch.processes):
        start = RankCommand(
            rank=rank,
            command=launch.command,
            environment=render_environment(launch, rank=rank, port=port, cores=cores, base=base),
            error_file=error_file(launch.log_dir, rank),
            log=log_file(launch.log_dir, rank) if rank else None,
        )
        ranks.append(start_rank(start, lambda number, ended: events.put(_RankExit(number, ended))))
    return ranks


@dataclass(slots=True)
class _Watch:
    """Follows the ranks until the last has ended."""

    ranks: Sequence[RankProcess]
    grace_seconds: float
    stop_signal_file: Path
    ends: dict[int, RankEnd] = field(default_factory=dict)
    stop_signal: signal.Signals | None = None
    deadline: float | None = None  # on the monotonic clock; remaining ranks are killed then
    killed: bool = False

    def run(self, events: _Events) -> None:
        while len(self.ends) < len(self.ranks):
            try:
                event = events.get(timeout=self._seconds_left())
            except queue.Empty:
                if self.killed:
                    alive = [rank.rank for rank in self._alive()]
                    logger.error("ranks %s did not end after SIGKILL", alive)
                    return
                self._kill()
                continue
            if isinstance(event, _RankExit):
                self._record_end(event)
            else:
                self._handle(event)

    def _seconds_left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def _alive(self) -> list[RankProcess]:
        return [rank for rank in self.ranks if rank.rank not in self.ends]

    def _record_end(self, event: _RankExit) -> None:
        end = self.ends[event.rank] = self.ranks[event.rank].load_end(event.time)
        if end.code != 0 and self.deadline is None:
            # The other ranks may wait forever for the lost rank in a collective.
            self._send(signal.SIGTERM)
            self.deadline = time.monotonic() + self.grace_seconds

    def _handle(self, number: signal.Signals) -> None:
        stopping = self.stop_signal is not None or self.deadline is not None
        if self.stop_signal is not signal.SIGINT:
            self.stop_signal = number
        if not stopping:
            # The ranks receive a Ctrl-C as SIGTERM; they read the original signal in this file.
            with suppress(OSError):
                self.stop_signal_file.write_text(number.name)
            logger.warning(
                "%s: saving after this step, then stopping. %s kills the run at once, unsaved.",
                number.name,
                "A second Ctrl-C" if number is signal.SIGINT else "Ctrl-C",
            )
        if stopping and number is signal.SIGINT:
            self._kill()
        else:
            self._send(signal.SIGUSR2 if number is signal.SIGUSR2 else signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        for rank in self._alive():
            rank.send(number)

    def _kill(self) -> None:
        self.killed = True
        self.deadline = time.monotonic() + KILL_SECONDS
        for rank in self._alive():
            rank.kill()


def _build_result(ends: Sequence[RankEnd], stop_signal: signal.Signals | None) -> LaunchResult:
    failure = find_first_failure(ends)
    interrupted = stop_signal is not None
    if failure is not None:
        return LaunchResult(2 if failure.exit_code == 2 else 1, failure, interrupted)
    if stop_signal is None or (stop_signal is not signal.SIGINT and not any(e.code for e in ends)):
        return LaunchResult(0, None, interrupted)
    return LaunchResult(128 + stop_signal, None, interrupted)
