"""Starts the daemons of a test cluster and kills all that came from them when pytest ends.

The processes of jobs detach themselves from slurmd, so neither process groups nor a parent-death
signal reach them. This process is a child subreaper: orphans below it become its children. When its
standard input closes, because pytest closed it or died, it kills every descendant and removes the
cluster's folder. It imports only the standard library, so that it starts fast.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
KILL_SECONDS = 10.0


def descendants(root: int) -> list[int]:
    """The ids of all processes below ``root``, read from /proc; without zombies."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            # The name in parentheses may hold blanks and parentheses itself.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry.name))
    found, pending = [], [root]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def kill_descendants() -> None:
    """Kills all processes below this one, also those that are started meanwhile."""
    deadline = time.monotonic() + KILL_SECONDS
    while (processes := descendants(os.getpid())) and time.monotonic() < deadline:
        for process in processes:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        reap()
        time.sleep(0.01)


def reap() -> None:
    """Collects the exit status of all children that ended, so that no zombies stay."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def start(request: dict[str, object]) -> int:
    """Starts a daemon; returns its process id."""
    with Path(str(request["log"])).open("ab") as log:
        daemon = subprocess.Popen(
            request["command"],  # type: ignore[call-overload]
            env=request["environment"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return int(daemon.pid)


def main(folder: str) -> None:
    """Serves requests, one JSON object a line, until standard input closes."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        while True:
            readable = select.select([sys.stdin], [], [], 0.2)[0]
            reap()
            if readable:
                line = sys.stdin.readline()
                if not line:
                    break
                sys.stdout.write(f"{start(json.loads(line))}\n")
                sys.stdout.flush()
    finally:
        kill_descendants()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
