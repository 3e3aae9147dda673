"""The launcher's port is free, and stays free until rank 0 listens on it."""

import socket
from pathlib import Path

import pytest

from launcher import ports


def test_no_outgoing_connection_can_take_the_port() -> None:
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if first_outgoing < ports.PORTS.stop:
        pytest.skip("this machine gives outgoing connections lower ports than Linux's default")
    assert ports.find_free_port() in ports.PORTS


def test_a_port_in_use_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        used = ports.find_free_port()
        listener.bind(("127.0.0.1", used))
        listener.listen()
        monkeypatch.setattr(ports, "PORTS", range(used, used + 20))
        assert ports.find_free_port() != used
        monkeypatch.setattr(ports, "PORTS", range(used, used + 1))
        with pytest.raises(OSError, match=f"from {used} to {used} are in use"):
            ports.find_free_port()
