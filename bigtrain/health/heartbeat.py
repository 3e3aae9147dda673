"""Reports the progress of a rank to its launcher, which can then detect a hang. No torch.

Each heartbeat is one datagram to a Unix socket, sent by the code that made the progress. No thread
sends them: a thread would also send them while the rank hangs.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

log = logging.getLogger(__name__)
_TRIES, _RETRY_SECONDS = 5, 0.002


class Phase(StrEnum):
    """What a rank is doing."""

    START = "start"
    """The process has begun."""
    CONNECT = "connect"
    """It waits for the other ranks."""
    LOAD = "load"
    """It builds the model and reads a checkpoint."""
    TRAIN = "train"
    VALIDATE = "validate"
    SAVE = "save"
    """Training waits for a save."""
    END = "end"


class Heartbeat:
    """Sends heartbeats: at each change of phase, after each step and each validation batch.

    Sending takes some 10 µs. A heartbeat is lost if the launcher's socket is gone, or full: Linux
    keeps only 10 datagrams by default (``net.unix.max_dgram_qlen``), for all ranks of the socket.
    That is not an error, and the next heartbeat says the same. Only a change of phase is sent again
    for some milliseconds, since the next heartbeat may be far away.
    """

    def __init__(self, socket_file: Path | None = None, *, rank: int = 0) -> None:
        """Sends nothing yet.

        Args:
            socket_file: The launcher's datagram socket; None if there is none. Then nothing is
                sent.
            rank: This process's rank.
        """
        self._file, self._rank = socket_file, rank
        self._socket: socket.socket | None = None
        self._phase, self._step = Phase.START, 0
        self._seconds: float | None = None
        if socket_file is not None:
            try:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            except OSError as error:
                log.warning("no heartbeats are sent: %s", error)

    def enter(self, phase: Phase, *, step: int | None = None) -> None:
        """Reports that a phase begins.

        Args:
            phase: The phase.
            step: Steps completed, if the number is not the one reported before.
        """
        self._phase = phase
        if step is not None:
            self._step = step
        for _ in range(_TRIES):
            if self._send():
                return
            time.sleep(_RETRY_SECONDS)

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Reports a phase, and at the end of the block the previous phase again."""
        before = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def complete_step(self, step: int, *, seconds: float) -> None:
        """Reports that a step is complete, and how long it took."""
        self._step, self._seconds = step, seconds
        self.beat()

    def beat(self) -> None:
        """Reports progress within a phase."""
        self._send()

    def _send(self) -> bool:
        """Sends a heartbeat; returns False if it may be sent again, because the socket is full."""
        if self._socket is None:
            return True
        values = {
            "rank": self._rank,
            "pid": os.getpid(),
            "phase": self._phase,
            "step": self._step,
            "seconds": self._seconds,
        }
        try:
            self._socket.sendto(json.dumps(values).encode(), str(self._file))
        except BlockingIOError:
            return False
        except OSError:  # The socket was removed, or its path is too long: training continues.
            pass
        return True
