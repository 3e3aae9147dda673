"""The addresses at which agents reach the supervisor."""

import socket

from launcher.agent.host_facts import find_addresses


class InterfaceError(ValueError):
    """The profile's network interface does not exist here; the message is one line."""


def own_addresses(interface: str | None) -> list[str]:
    """The addresses of this machine to give to agents, the most likely first.

    Args:
        interface: The network interface of the cluster profile; only its address counts then.

    Raises:
        InterfaceError: There is no such interface.
    """
    interfaces = find_addresses()
    if interface is not None:
        if interface not in interfaces:
            raise InterfaceError(
                f"cluster.network_interface={interface}: {socket.gethostname()} has no such "
                f"interface with an IPv4 address; it has {', '.join(interfaces)}"
            )
        return [interfaces[interface]]
    others = [address for address in interfaces.values() if not address.startswith("127.")]
    return others or ["127.0.0.1"]
