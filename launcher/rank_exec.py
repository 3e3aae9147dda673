"""Ties a rank's life to its launcher, then becomes the rank.

The launcher runs this file by its path, in front of every rank's command. It asks the kernel for a
SIGTERM when the launcher dies, and `exec` keeps that promise. A `preexec_fn` would do the same
between fork and exec, where Python code can deadlock once threads run, and the launcher has one
thread per rank.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent(parent: int) -> None:
    """Has the kernel send SIGTERM to this process when `parent` dies, and exits if it has died."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # Asked after the promise is made: a parent that died before it leaves us another parent.
    if os.getppid() != parent:
        sys.exit("the launcher has died; this rank does not start")


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
