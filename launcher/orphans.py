"""Leaves no process behind, however far it moved away from the rank that started it.

Killing process groups misses a helper that opened a session of its own, as wandb's service does.
So the launcher asks the kernel to become the parent of every orphan below it; what is still its
child when the job has ended is a stray.
"""

import ctypes
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
END_SECONDS = 5.0
POLL_SECONDS = 0.01


@contextmanager
def no_orphans() -> Iterator[None]:
    """Kills, on leaving the block, every process that was born in it below this one.

    No other part of this process may start children meanwhile. A process that does not die within
    `END_SECONDS`, because it hangs inside the kernel, is named in the log and left.
    """
    before = _find_children()
    _adopt_orphans(True)
    try:
        yield
    finally:
        _kill_children_born_since(before)
        _adopt_orphans(False)


def _adopt_orphans(yes: bool) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def _kill_children_born_since(before: set[int]) -> None:
    deadline = time.monotonic() + END_SECONDS
    # Each round may make orphans of the next generation, which then become children of ours.
    while strays := _find_children() - before:
        for pid in strays:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            logger.error("processes %s do not die of SIGKILL and are left behind", sorted(strays))
            return
        time.sleep(POLL_SECONDS)


def _find_children() -> set[int]:
    pids = (int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit())
    return {pid for pid in pids if _read_parent(pid) == os.getpid()}


def _read_parent(pid: int) -> int | None:
    with suppress(OSError):
        # The command's name stands in parentheses and may hold anything; state and parent follow.
        return int(
            Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1]
        )
    return None
