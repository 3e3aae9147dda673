"""The temporary folder of an agent, which holds the socket of its ranks' heartbeats.

An agent removes its folder when it ends. If it was killed, the next agent of the same user on the
machine removes the folder, when it starts or ends. It recognizes a folder whose agent lives by the
lock on a file in it.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "bigtrain-agent-"
NEW_PREFIX = ".bigtrain-agent-"
LOCK_FILE = "lock"
MAX_SOCKET_PATH = 100
"""The kernel accepts 107 bytes for the path of a socket."""


@contextmanager
def agent_folder() -> Iterator[Path]:
    """Makes a folder that only this user can read, and removes it at the end of the block."""
    parent = _find_parent()
    _remove_abandoned(parent)
    # It gets this name once it is locked: another agent that starts now would remove it before.
    made = Path(tempfile.mkdtemp(prefix=NEW_PREFIX, dir=parent))
    folder = parent / f"{PREFIX}{made.name.removeprefix(NEW_PREFIX)}"
    try:
        with (made / LOCK_FILE).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made.rename(folder)
            yield folder
    finally:
        for each in (made, folder):
            shutil.rmtree(each, ignore_errors=True)
        _remove_abandoned(parent)


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
