"""Starts the ranks of one run on this machine, watches them, and reports which failed first.

One thread per rank waits for the end of the rank. These ends and the launcher's own signals are put
into one queue, so that a single loop handles all events in order. Works only on Linux, whose kernel
can end ranks when the launcher is killed.
"""

import logging
import math
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from launcher import rank_exec
from launcher.environment import count_usable_cores, read_environment
from launcher.failures import (
    RankEnd,
    RankFailure,
    find_first_failure,
    load_error_report,
    load_last_line,
    render_failure,
)
from launcher.orphans import no_orphans
from launcher.ports import find_free_port

__all__ = [
    "JobResult",
    "LocalJob",
    "RankFailure",
    "render_environment",
    "render_failure",
    "run_local",
]

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
KILL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class LocalJob:
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
class JobResult:
    """How a job ended.

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
class _Exit:
    """The end of a rank's process, reported by the thread that waits for it."""

    rank: int
    time: float


@dataclass(slots=True)
class _Rank:
    rank: int
    process: subprocess.Popen[bytes]
    log: Path | None
    log_start: int
    error_file: Path
    sent: dict[int, float] = field(default_factory=dict)  # signal → when it was first sent


_Events = queue.SimpleQueue[_Exit | signal.Signals]


def run_local(job: LocalJob) -> JobResult:
    """Runs a job to its end; after that, none of its processes is running.

    Call it from the main thread: signals arrive there, and the ranks are stopped when the thread
    that started them ends. Ctrl-C, SIGTERM and SIGUSR2 ask the ranks to save and stop; another
    Ctrl-C kills them.

    Raises:
        OSError: A rank could not be started.
    """
    _prepare_log_dir(job)
    events: _Events = queue.SimpleQueue()
    with _signals_into(events), no_orphans():
        ranks = _start_ranks(job, events)
        watch = _Watch(
            ranks=ranks,
            grace_seconds=job.grace_seconds,
            stop_signal_file=_stop_signal_file(job.log_dir),
        )
        watch.run(events)
    result = _conclude([watch.ends[rank] for rank in sorted(watch.ends)], watch.stop_signal)
    name = watch.stop_signal.name.replace("SIGINT", "Ctrl-C") if watch.stop_signal else None
    return replace(result, stop_signal=name, rank_zero_pid=ranks[0].process.pid)


def render_environment(
    job: LocalJob, *, rank: int, port: int, cores: int, base: Mapping[str, str]
) -> dict[str, str]:
    """Renders the environment of one rank: `base`, with its rank and the size of the job.

    If `base` has OMP_NUM_THREADS, its value is kept.
    """
    threads = job.threads_per_process or max(1, cores // job.processes)
    return {
        "OMP_NUM_THREADS": str(threads),
        **base,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(job.processes),
        "LOCAL_WORLD_SIZE": str(job.processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "BIGTRAIN_ERROR_FILE": str(_error_file(job.log_dir.absolute(), rank)),
        "BIGTRAIN_STOP_SIGNAL_FILE": str(_stop_signal_file(job.log_dir.absolute())),
    }


def _error_file(log_dir: Path, rank: int) -> Path:
    return log_dir / f"rank-{rank}.error.json"


def _stop_signal_file(log_dir: Path) -> Path:
    return log_dir / "stop-signal"


def _prepare_log_dir(job: LocalJob) -> None:
    job.log_dir.mkdir(parents=True, exist_ok=True)
    _stop_signal_file(job.log_dir).unlink(missing_ok=True)
    for stale in job.log_dir.glob("rank-*.error.json"):
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


def _start_ranks(job: LocalJob, events: _Events) -> list[_Rank]:
    port, cores, base = find_free_port(), count_usable_cores(), read_environment()
    ranks = []
    for number in range(job.processes):
        environment = render_environment(job, rank=number, port=port, cores=cores, base=base)
        rank = _start_rank(job, number, environment)
        # A daemon thread, so that the launcher can end even if a rank hangs inside the kernel.
        threading.Thread(target=_send_exit, args=(rank, events), daemon=True).start()
        ranks.append(rank)
    return ranks


def _start_rank(job: LocalJob, rank: int, environment: dict[str, str]) -> _Rank:
    wrapper = (sys.executable, "-I", "-S", str(rank_exec.__file__), str(os.getpid()))
    command = (*wrapper, *job.command)
    error_file = _error_file(job.log_dir, rank)
    # In its own session a rank does not receive the terminal's Ctrl-C; the launcher forwards it.
    if rank == 0:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
        return _Rank(rank, process, log=None, log_start=0, error_file=error_file)
    path = job.log_dir / f"rank-{rank}.log"
    with path.open("ab") as log:  # Keeps the log of earlier attempts.
        start = log.tell()
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return _Rank(rank, process, log=path, log_start=start, error_file=error_file)


def _send_exit(rank: _Rank, events: _Events) -> None:
    # With WNOWAIT the process id stays in use, so our signals cannot reach another process. The
    # loop reaps the process when it handles the event, and does not signal it after that.
    os.waitid(os.P_PID, rank.process.pid, os.WEXITED | os.WNOWAIT)
    events.put(_Exit(rank.rank, time.time()))


@dataclass(slots=True)
class _Watch:
    """Follows the ranks of a job until the last has ended."""

    ranks: Sequence[_Rank]
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
            if isinstance(event, _Exit):
                self._record_end(event)
            else:
                self._handle(event)

    def _seconds_left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def _alive(self) -> list[_Rank]:
        return [rank for rank in self.ranks if rank.rank not in self.ends]

    def _record_end(self, event: _Exit) -> None:
        end = self.ends[event.rank] = _load_end(self.ranks[event.rank], event.time)
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
        # Only to the rank: its child processes, such as wandb's, must run until the rank has saved.
        for rank in self._alive():
            rank.sent.setdefault(number, time.time())
            os.kill(rank.process.pid, number)

    def _kill(self) -> None:
        self.killed = True
        self.deadline = time.monotonic() + KILL_SECONDS
        for rank in self._alive():
            rank.sent.setdefault(signal.SIGKILL, time.time())
            os.killpg(rank.process.pid, signal.SIGKILL)


def _load_end(rank: _Rank, ended: float) -> RankEnd:
    code = rank.process.wait()
    return RankEnd(
        rank=rank.rank,
        code=code,
        time=ended,
        signalled=rank.sent.get(-code, math.inf) <= ended,
        report=load_error_report(rank.error_file),
        last_line=load_last_line(rank.log, start=rank.log_start) if rank.log else None,
        log=rank.log,
    )


def _conclude(ends: Sequence[RankEnd], stop_signal: signal.Signals | None) -> JobResult:
    failure = find_first_failure(ends)
    interrupted = stop_signal is not None
    if failure is not None:
        return JobResult(2 if failure.exit_code == 2 else 1, failure, interrupted)
    if stop_signal is None or (stop_signal is not signal.SIGINT and not any(e.code for e in ends)):
        return JobResult(0, None, interrupted)
    return JobResult(128 + stop_signal, None, interrupted)
