"""File locks between processes.

A lock lasts until its file is closed, so it also ends when the process exits or is killed.
"""

import fcntl
from typing import IO, Any


def try_lock(file: IO[Any], *, shared: bool = False) -> bool:
    """Locks an open file unless another process holds a lock on it.

    Args:
        file: The file; its lock ends when it is closed.
        shared: Takes a shared lock: several processes can hold one at the same time, but not while
            another process holds an exclusive lock.

    Returns:
        Whether this process holds the lock now.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(file: IO[Any]) -> None:
    """Locks an open file as soon as no other process holds a lock on it."""
    fcntl.flock(file, fcntl.LOCK_EX)


def try_lock_byte(file: IO[Any], offset: int) -> bool:
    """Locks one byte of a file, which is open for writing, unless another process holds it.

    Returns:
        Whether this process holds the lock now.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
    except (BlockingIOError, PermissionError):  # POSIX allows either.
        return False
    return True
