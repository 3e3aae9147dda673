"""Writes the stacks of all threads on SIGQUIT, so that a hung rank shows where it waits. No torch.

Python's own signal handlers run between two bytecodes, which a rank that is blocked in a collective
never reaches. `faulthandler` writes from the signal handler in C, at once.
"""

import faulthandler
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bigtrain.config.rank_files import collectives_file
from data_tools.files import write_file

log = logging.getLogger(__name__)
POLL_SECONDS = 0.5


def write_stacks_on_sigquit(
    file: Path | None, *, rank: int, render_collectives: Callable[[], str] | None = None
) -> None:
    """From now on, SIGQUIT appends the stacks of all threads to a file; the process continues.

    A failure is only a warning, since training does not need the file.

    Args:
        file: The file, which is created; None leaves SIGQUIT as it is.
        rank: This process's rank, for the line that is written at once.
        render_collectives: Renders the last collectives of this rank. They are written beside the
            file soon after the stacks, if the interpreter is not blocked.
    """
    if file is None:
        return
    try:
        # Opened without a file object, so that nothing closes the descriptor while the rank runs.
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        os.write(descriptor, f"rank {rank}, process {os.getpid()}, {started}\n".encode())
    except OSError as error:
        log.warning("%s: a hang will not show the stacks of rank %d: %s", file, rank, error)
        return
    faulthandler.register(signal.SIGQUIT, file=descriptor, all_threads=True)
    if render_collectives is not None:
        work = (descriptor, collectives_file(file), render_collectives)
        threading.Thread(target=_follow, args=work, name="collectives", daemon=True).start()


def _follow(stacks: int, file: Path, render: Callable[[], str]) -> None:
    """Writes the collectives whenever the stacks were written, which no thread can wait for."""
    size = os.fstat(stacks).st_size
    while True:
        time.sleep(POLL_SECONDS)
        if (now := os.fstat(stacks).st_size) == size:
            continue
        size = now
        try:
            write_file(file, render().encode(), makes_folder=False)
        except Exception as error:  # What hangs is to be reported, whatever torch says.
            log.warning("%s: the collectives are not known: %s", file, error)
