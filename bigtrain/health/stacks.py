"""Writes the stacks of all threads on SIGQUIT, so that a hung rank shows where it waits. No torch.

Python's own signal handlers run between two bytecodes, which a rank that is blocked in a collective
never reaches. `faulthandler` writes from the signal handler in C, at once.
"""

import faulthandler
import logging
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger(__name__)


def write_stacks_on_sigquit(file: Path | None, *, rank: int) -> None:
    """From now on, SIGQUIT appends the stacks of all threads to a file; the process continues.

    A failure is only a warning, since training does not need the file.

    Args:
        file: The file, which is created; None leaves SIGQUIT as it is.
        rank: This process's rank, for the line that is written at once.
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
