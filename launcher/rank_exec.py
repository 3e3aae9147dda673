"""Runs a rank's command, so that the rank gets a SIGTERM if the launcher dies.

The launcher runs this file by its path, with the rank's command as arguments. The file asks the
kernel to send SIGTERM when the launcher dies, which stays in effect after `exec`. A `preexec_fn`
could do the same between fork and exec, but Python code can deadlock there if there are other
threads, and the launcher has one thread per rank.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent(parent: int) -> None:
    """Makes the kernel send SIGTERM to this process when `parent` dies; exits if it is dead."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # Checked after the call: if the parent died before it, this process has another parent now.
    if os.getppid() != parent:
        sys.exit("the launcher has died; this rank does not start")


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
