"""The temporary folder of an agent, which holds the socket of its ranks' heartbeats.

An agent removes its folder when it ends. If it was killed, the next agent of the same user on the
machine that starts or ends removes it: a file in the folder is locked while the agent lives.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

PREFIX = "bigtrain-agent-"
LOCK_FILE = "lock"
MAX_SOCKET_PATH = 100
"""The kernel accepts 107 bytes for the path of a socket."""


@contextmanager
def agent_folder() -> Iterator[Path]:
    """Makes a folder that only this user can read, and removes it at the end of the block."""
    parent = _find_parent()
    _remove_abandoned(parent)
    folder, lock = _make_locked(parent)
    try:
        yield folder
    finally:
        lock.close()
        shutil.rmtree(folder, ignore_errors=True)
        _remove_abandoned(parent)


def _make_locked(parent: Path) -> tuple[Path, TextIO]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        lock = (folder / LOCK_FILE).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another agent that starts now may have taken the lock first, and removed the folder.
        if (folder / LOCK_FILE).exists():
            return folder, lock
        lock.close()


def _find_parent() -> Path:
    parent = Path(tempfile.gettempdir())
    # mkdtemp adds the prefix and eight characters; the socket's name is short.
    is_short = len(os.fsencode(parent / PREFIX)) + 40 <= MAX_SOCKET_PATH
    return parent if is_short else Path("/tmp")


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / LOCK_FILE).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
