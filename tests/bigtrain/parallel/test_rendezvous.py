"""Ranks that cannot connect to each other give the reason and the remedy in one line."""

import os
import socket

import pytest

from bigtrain.parallel.rendezvous import render_rendezvous_error
from tests.ranks import RankError, run_ranks


def connect(environment: dict[str, str]) -> None:
    """Sets the environment and makes process groups; for ``run_ranks``."""
    import torch

    from bigtrain.config.layout import Layout
    from bigtrain.environment import read_ranks
    from bigtrain.parallel.groups import process_groups

    os.environ.update(environment)
    ranks = read_ranks()
    layout = Layout(data=ranks.world_size)
    with process_groups(ranks, layout, torch.device("cpu")):
        pass


def _connection_error(**environment: str) -> str:
    """The last line of a rank's error."""
    with pytest.raises(RankError) as error:
        run_ranks(connect, 1, environment)
    return str(error.value).strip().splitlines()[-1]


def test_an_interface_that_does_not_exist_is_named_with_those_that_do() -> None:
    line = _connection_error(GLOO_SOCKET_IFNAME="nope")
    assert line.startswith(
        "bigtrain.parallel.rendezvous.RendezvousError: GLOO_SOCKET_IFNAME=nope: "
    )
    assert all(name in line for _, name in socket.if_nameindex())


def test_a_taken_port_is_named() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        line = _connection_error(MASTER_PORT=port, WORLD_SIZE="2")
    assert f"port {port} of this machine is in use" in line


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            "Error initializing torch.distributed using env:// rendezvous: environment variable "
            "MASTER_PORT expected, but not set",
            "MASTER_PORT is not set; start the ranks with `bigtrain launch` or torchrun",
        ),
        ("port must have value from 0 to 65535 but was 99999.", "MASTER_PORT=99999 is not a port"),
        (
            "The client socket has timed out after 8000ms while trying to connect to (h, 1).",
            "rank 0 does not answer at 127.0.0.1, port 99999",
        ),
        ("Timed out after 9 seconds waiting for clients. 1/2 clients joined.", "only 1 of 2 ranks"),
        ("unable to resolve hostname to a (local) address", "set GLOO_SOCKET_IFNAME to a network"),
        ("something\nnew", "the ranks cannot connect to each other: something new"),
    ],
)
def test_an_error_of_torch_becomes_one_line_with_the_remedy(
    error: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "99999")
    line = render_rendezvous_error(error)
    assert line.startswith(expected) or expected in line
    assert len(line.splitlines()) == 1


def test_an_address_without_a_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer_nothing(*_: object) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", answer_nothing)
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    line = render_rendezvous_error("The client socket has timed out after 8000ms")
    assert line.startswith("MASTER_ADDR=no-such-host.invalid cannot be resolved")
