"""Kills all processes that the ranks have started and left running.

Killing process groups misses a process with its own session, such as wandb's service. So the
launcher asks the kernel to make it the parent of every orphan among its descendants. It kills all
its children when the job has ended.
"""

import ctypes
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from launcher.processes import find_parent

logger = logging.getLogger(__name__)

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
END_SECONDS = 5.0
POLL_SECONDS = 0.01


@contextmanager
def no_orphans() -> Iterator[None]:
    """At the end of the block, kills every descendant process that was started inside it.

    No other part of this process may start children during the block. A process that does not end
    within `END_SECONDS`, because it hangs inside the kernel, is only logged.
    """
    before = _find_children()
    _adopt_orphans(True)
    try:
        yield
    finally:
        _kill_new_children(before)
        _adopt_orphans(False)


def _adopt_orphans(enabled: bool) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(enabled), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def _kill_new_children(before: set[int]) -> None:
    deadline = time.monotonic() + END_SECONDS
    # Killing a process makes its children orphans, which then become our children.
    while left := _find_children() - before:
        for pid in left:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            logger.error("processes %s are still running after SIGKILL", sorted(left))
            return
        time.sleep(POLL_SECONDS)


def _find_children() -> set[int]:
    pids = (int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit())
    return {pid for pid in pids if find_parent(pid) == os.getpid()}
