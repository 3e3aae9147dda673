"""Starts the processes of ranks on this machine, signals them, and reports how each ended.

The local launch and the agent of a cluster node share this module, so that a rank runs in the same
way under both. Each rank has its own session and gets SIGTERM from the kernel if its launcher dies.
Works only on Linux.
"""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from launcher import rank_exec
from launcher.failures import RankEnd, load_error_report, load_last_line

_TRAIN_RANK = ("-m", "bigtrain.cli", "train-rank")
"""The command that unblocks `_DEFERRED` as soon as it handles them (`bigtrain.train.stop`)."""
_DEFERRED = (signal.SIGTERM, signal.SIGUSR2)
"""Signals that ask a rank to save. Before it handles them they would end it."""


@dataclass(frozen=True, slots=True)
class RankCommand:
    """What one rank runs, and where it writes."""

    rank: int
    command: tuple[str, ...]
    environment: Mapping[str, str]  # all variables of the rank
    error_file: Path
    log: Path | None  # None: the rank writes to the output of its launcher


@dataclass(slots=True)
class RankProcess:
    """A rank that was started. `load_end` reaps it, and must be called once, after its exit."""

    rank: int
    process: subprocess.Popen[bytes]
    log: Path | None
    log_start: int
    error_file: Path
    sent: dict[int, float] = field(default_factory=dict)  # signal → when it was first sent

    @property
    def pid(self) -> int:
        """The process id of the rank."""
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the rank, but not to its child processes.

        Child processes, such as wandb's, must run until the rank has saved.
        """
        self.sent.setdefault(number, time.time())
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills the rank and the processes of its group."""
        self.sent.setdefault(signal.SIGKILL, time.time())
        os.killpg(self.pid, signal.SIGKILL)

    def load_end(self, ended: float, *, reads_files: bool = True) -> RankEnd:
        """Reaps the process and reads its error file and the end of its log.

        Args:
            ended: When it exited, in seconds since the epoch.
            reads_files: Whether to read these files; they may be on a disk that hangs.
        """
        code = self.process.wait()
        log = self.log if reads_files else None
        return RankEnd(
            rank=self.rank,
            code=code,
            time=ended,
            signalled=self.sent.get(-code, math.inf) <= ended,
            report=load_error_report(self.error_file) if reads_files else None,
            last_line=load_last_line(log, start=self.log_start) if log else None,
            log=self.log,
        )


def open_log(command: RankCommand) -> IO[bytes] | None:
    """Opens the log of a rank, which keeps what earlier attempts wrote; None if it has none.

    Raises:
        OSError: It cannot be opened.
    """
    return None if command.log is None else command.log.open("ab")


def start_rank(
    start: RankCommand, on_exit: Callable[[int, float], None], *, log: IO[bytes] | None = None
) -> RankProcess:
    """Starts a rank. Call it from the main thread: the rank is stopped when this thread ends.

    Args:
        start: What to run.
        on_exit: Called once in another thread with the rank and the time of its exit.
        log: What `open_log` returned, if it was called before; it is closed here.

    Raises:
        OSError: The rank cannot be started, or its log cannot be opened.
    """
    wrapper = (sys.executable, "-I", "-S", str(rank_exec.__file__), str(os.getpid()))
    command = (*wrapper, *start.command)
    defers = start.command[1:4] == _TRAIN_RANK
    with log or open_log(start) or nullcontext() as output:
        log_start = 0 if output is None else os.fstat(output.fileno()).st_size
        process = _start_process(command, start.environment, output, defers_signals=defers)
    rank = RankProcess(start.rank, process, start.log, log_start, start.error_file)
    # A daemon thread, so that the launcher can end even if a rank hangs inside the kernel.
    threading.Thread(target=_report_exit, args=(rank, on_exit), daemon=True).start()
    return rank


def error_file(log_dir: Path, rank: int) -> Path:
    """The file in which a rank reports why it failed."""
    return log_dir / f"rank-{rank}.error.json"


def log_file(log_dir: Path, rank: int) -> Path:
    """The file that receives the output of a rank."""
    return log_dir / f"rank-{rank}.log"


def stop_signal_file(log_dir: Path) -> Path:
    """The file that names the signal with which the user or the scheduler stopped the job."""
    return log_dir / "stop-signal"


def render_rank_environment(
    *,
    rank: int,
    local_rank: int,
    world_size: int,
    local_world_size: int,
    master: tuple[str, int],
    log_dir: Path,
) -> dict[str, str]:
    """Renders the variables that give a rank its numbers and the size of the job.

    Args:
        rank: Number of the rank in the job.
        local_rank: Number of the rank on its machine.
        world_size: Ranks of the job.
        local_world_size: Ranks on its machine.
        master: Address and port at which rank 0 listens.
        log_dir: Absolute path of the folder of error files.
    """
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(local_world_size),
        "MASTER_ADDR": master[0],
        "MASTER_PORT": str(master[1]),
        "BIGTRAIN_ERROR_FILE": str(error_file(log_dir, rank)),
        "BIGTRAIN_STOP_SIGNAL_FILE": str(stop_signal_file(log_dir)),
    }


def threads_per_rank(cores: int, ranks: int) -> int:
    """The threads of each rank if the ranks of a machine share its cores evenly; at least 1."""
    return max(1, cores // ranks)


def _start_process(
    command: tuple[str, ...],
    environment: Mapping[str, str],
    log: IO[bytes] | None,
    *,
    defers_signals: bool,
) -> subprocess.Popen[bytes]:
    # The process inherits the mask; the signals stay pending until it unblocks them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _DEFERRED if defers_signals else ())
    # In its own session a rank does not receive the terminal's Ctrl-C; the launcher forwards it.
    try:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=None if log is None else subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _report_exit(rank: RankProcess, on_exit: Callable[[int, float], None]) -> None:
    # With WNOWAIT the process id stays in use, so our signals cannot reach another process. The
    # launcher reaps the process when it handles the exit, and does not signal it after that.
    os.waitid(os.P_PID, rank.pid, os.WEXITED | os.WNOWAIT)
    on_exit(rank.rank, time.time())
