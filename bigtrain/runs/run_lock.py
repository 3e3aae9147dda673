"""The lock of a run folder: one process at a time trains a run or changes its record."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from data_tools.locks import try_lock

_LOCK_FILE = "lock"


class RunBusyError(ValueError):
    """The run is in use or was changed by another process; the message is one line."""


class RankRefusedError(RuntimeError):
    """A rank found that its run is in use or was changed; a restart may succeed.

    It is no error of the user: NFS keeps the lock of a machine that died for minutes, and the same
    lock in the next attempt is free. (`RunBusyError` would end the rank with exit code 2.)
    """


def acquire_run_lock(run_dir: Path) -> TextIO:
    """Takes the lock of a run; closing the file that is returned releases it.

    Raises:
        RunBusyError: Another process holds the lock.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = (run_dir / _LOCK_FILE).open("a+", encoding="utf-8")
    if not try_lock(lock):
        lock.seek(0)
        owner = lock.read().strip() or "another process"
        lock.close()
        raise RunBusyError(
            f"{run_dir}: {owner} is training this run; wait for it, stop it, or give "
            "this run another name"
        )
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return lock


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Holds the lock of a run inside a ``with`` block.

    Raises:
        RunBusyError: Another process holds the lock.
    """
    with acquire_run_lock(run_dir):
        yield


def check_not_locked(run_dir: Path) -> None:
    """Checks that no process holds the lock of a run. Creates no file.

    Raises:
        RunBusyError: A process holds the lock.
    """
    if (run_dir / _LOCK_FILE).exists():
        with run_lock(run_dir):
            pass
