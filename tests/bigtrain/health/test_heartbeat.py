"""Heartbeats reach the launcher's socket, and whatever happens to it neither stops nor delays."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bigtrain.health.heartbeat import Heartbeat, Phase


class Receiver:
    """The launcher's end of the socket."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(file))
        self._socket.setblocking(False)
        self._kept: list[dict[str, Any]] = []

    def received(self) -> list[dict[str, Any]]:
        """The heartbeats since the last call."""
        self.keep()
        found, self._kept = self._kept, []
        return found

    def keep(self) -> None:
        """Makes room in the socket, which holds few datagrams."""
        while True:
            try:
                self._kept.append(json.loads(self._socket.recv(4096)))
            except BlockingIOError:
                return

    def close(self) -> None:
        self._socket.close()
        self.file.unlink(missing_ok=True)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path / "beats")
    yield receiver
    receiver.close()


def _beats(receiver: Receiver) -> list[tuple[str, int, float | None]]:
    return [(b["phase"], b["step"], b["seconds"]) for b in receiver.received()]


def test_each_change_of_phase_and_each_step_is_one_datagram(receiver: Receiver) -> None:
    heartbeat = Heartbeat(receiver.file, rank=3)
    heartbeat.enter(Phase.LOAD)
    heartbeat.enter(Phase.TRAIN, step=40)
    heartbeat.complete_step(41, seconds=0.5)
    with heartbeat.during(Phase.VALIDATE):
        heartbeat.beat()
    assert _beats(receiver) == [
        ("load", 0, None),
        ("train", 40, None),
        ("train", 41, 0.5),
        ("validate", 41, 0.5),
        ("validate", 41, 0.5),
        ("train", 41, 0.5),
    ]
    heartbeat.beat()
    [beat] = receiver.received()
    assert set(beat) == {"rank", "pid", "phase", "step", "seconds"}
    assert beat["rank"] == 3


def test_a_phase_that_ends_with_an_error_is_left(receiver: Receiver) -> None:
    heartbeat = Heartbeat(receiver.file)
    heartbeat.enter(Phase.TRAIN)
    with pytest.raises(OSError), heartbeat.during(Phase.SAVE):
        raise OSError
    assert [phase for phase, _, _ in _beats(receiver)] == ["train", "save", "train"]


def test_without_a_socket_nothing_happens() -> None:
    heartbeat = Heartbeat()
    heartbeat.enter(Phase.TRAIN)
    heartbeat.complete_step(1, seconds=1.0)


def test_a_launcher_that_does_not_read_delays_nothing(receiver: Receiver) -> None:
    heartbeat, threads = Heartbeat(receiver.file), threading.active_count()
    started = time.monotonic()
    for step in range(3000):  # The socket holds 10 datagrams by default, some hundred at most.
        heartbeat.complete_step(step, seconds=1.0)
    heartbeat.enter(Phase.SAVE)
    assert time.monotonic() - started < 5
    assert threading.active_count() == threads
    assert 0 < len(receiver.received()) < 3000


def test_a_change_of_phase_waits_a_moment_for_room(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat = Heartbeat(receiver.file)
    for step in range(600):
        heartbeat.complete_step(step, seconds=1.0)
    monkeypatch.setattr(time, "sleep", lambda _: receiver.keep())
    heartbeat.enter(Phase.SAVE)
    assert ("save", 599, 1.0) in _beats(receiver)


@pytest.mark.parametrize("name", ["gone", "x" * 200, "no/such/folder"])
def test_a_socket_that_cannot_be_reached_is_no_error(tmp_path: Path, name: str) -> None:
    Heartbeat(tmp_path / name).enter(Phase.TRAIN)


def test_heartbeats_continue_when_the_launcher_opens_its_socket_again(receiver: Receiver) -> None:
    heartbeat = Heartbeat(receiver.file)
    heartbeat.beat()
    receiver.close()
    heartbeat.beat()
    again = Receiver(receiver.file)
    heartbeat.complete_step(7, seconds=1.0)
    assert _beats(again) == [("start", 7, 1.0)]
    again.close()
