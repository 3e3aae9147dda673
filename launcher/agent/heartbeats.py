"""Receives the heartbeats of an agent's ranks, one JSON datagram each, on a unix socket.

The kernel adds the sender's process id to each datagram, translated into the PID namespace of the
agent, so that the agent can signal a rank in a container.
"""

import json
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from launcher.agent.messages import RankBeat

MAX_DATAGRAM = 4096
_CREDENTIALS = struct.Struct("iII")  # struct ucred: process, user and group


@dataclass(slots=True)
class _RankState:
    phase: str = "start"
    step: int = 0
    seconds: float | None = None
    beats: int = 0
    pid: int | None = None
    newest: float = field(default_factory=time.monotonic)


class HeartbeatSocket:
    """The socket, and the newest heartbeat of each rank of the generation that runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(path))
        self._ranks: dict[int, _RankState] = {}

    def fileno(self) -> int:
        """The file descriptor, to wait for a datagram."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes and removes the socket."""
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def expect(self, ranks: Iterable[int]) -> None:
        """Forgets earlier ranks; from now on these count as starting."""
        self._ranks = {}
        self.receive()  # Removes what ranks of an earlier attempt sent.
        self._ranks = {rank: _RankState() for rank in ranks}

    def forget(self, rank: int) -> None:
        """Forgets a rank, because it has ended."""
        self._ranks.pop(rank, None)

    def receive(self) -> bool:
        """Reads all datagrams that have arrived.

        Returns:
            Whether to report to the supervisor at once, because a rank entered another phase or
            took its first step.
        """
        urgent = False
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(
                    MAX_DATAGRAM, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
            except (BlockingIOError, InterruptedError):
                return urgent
            urgent |= self._record(data, _sender(ancillary))

    def pid(self, rank: int) -> int | None:
        """The process that sends the rank's heartbeats; None if none has arrived."""
        state = self._ranks.get(rank)
        return None if state is None else state.pid

    def beats(self) -> tuple[RankBeat, ...]:
        """The state of each rank, for the supervisor."""
        now = time.monotonic()
        return tuple(
            RankBeat(
                rank=rank,
                beats=state.beats,
                phase=state.phase,
                step=state.step,
                seconds_since=round(now - state.newest, 3),
                seconds=state.seconds,
            )
            for rank, state in self._ranks.items()
        )

    def _record(self, data: bytes, sender: int | None) -> bool:
        try:
            fields = json.loads(data)
            rank, phase, step = int(fields["rank"]), str(fields["phase"])[:20], int(fields["step"])
            seconds = None if fields.get("seconds") is None else float(fields["seconds"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        state = self._ranks.get(rank)
        if state is None:
            return False
        urgent = state.phase != phase or (state.seconds is None and seconds is not None)
        state.phase, state.step, state.seconds, state.pid = phase, step, seconds, sender
        state.beats += 1
        state.newest = time.monotonic()
        return urgent


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return int(_CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]) or None
    return None
