"""Turns an `init_process_group` error into one line with a remedy. No torch."""

import re
import socket

from bigtrain.environment import rendezvous_address


class RendezvousError(ValueError):
    """The ranks cannot connect to each other; the message is one line with a remedy."""


def render_rendezvous_error(message: str) -> str:
    """Renders an error of torch.distributed or gloo while the ranks connect, in one line.

    Args:
        message: The message of the exception that ``init_process_group`` raised.
    """
    address, port = rendezvous_address()
    text = " ".join(message.split())
    if found := re.search(r"find address for: (\S+)", text):
        names = ", ".join(name for _, name in socket.if_nameindex())
        return (
            f"GLOO_SOCKET_IFNAME={found[1]}: this machine has no such network interface with an "
            f"address; unset it, or set it to one of {names}"
        )
    if "address already in use" in text.lower():
        return (
            f"port {port} of this machine is in use, so the ranks cannot connect; set MASTER_PORT "
            "to a free port (`bigtrain launch` chooses another port when it is started again)"
        )
    if found := re.search(r"environment variable (\w+) expected", text):
        return f"{found[1]} is not set; start the ranks with `bigtrain launch` or torchrun"
    if "invalid literal for int" in text or "port must have value" in text:
        return f"MASTER_PORT={port} is not a port; set it to a number from 1 to 65535"
    if "resolve" in text.lower() or (address and not _resolves(address)):
        return _render_unresolved(address, text)
    if "client socket has" in text:
        return (
            f"rank 0 does not answer at {address}, port {port}; check that it runs, that "
            "MASTER_ADDR and MASTER_PORT are its address and port, and that no firewall blocks it"
        )
    if found := re.search(r"(\d+)/(\d+) clients joined", text):
        return f"only {found[1]} of {found[2]} ranks connected; see the logs of the other ranks"
    return f"the ranks cannot connect to each other: {text[:300]}"


def _render_unresolved(address: str, text: str) -> str:
    if address and not _resolves(address):
        return f"MASTER_ADDR={address} cannot be resolved; give the address of rank 0's machine"
    name = socket.gethostname()
    return (
        f"gloo finds no address for this machine, {name}: set GLOO_SOCKET_IFNAME to a network "
        f"interface ({', '.join(name for _, name in socket.if_nameindex())}), or add {name} "
        f"and its address to /etc/hosts ({text[:120]})"
    )


def _resolves(name: str) -> bool:
    try:
        socket.getaddrinfo(name, None)
    except (OSError, UnicodeError):
        return False
    return True
