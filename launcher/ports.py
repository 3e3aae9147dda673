"""Finds a free port to listen on: for rank 0, or for the supervisor."""

import random
import socket
from contextlib import suppress

PORTS = range(20_000, 32_000)
"""Where to look. By default Linux gives outgoing connections higher ports, so none of them can take
the port that was found in the seconds before rank 0 listens on it."""


def find_free_port() -> int:
    """Returns a port on which nothing listens.

    Raises:
        OSError: Every port of the range is in use.
    """
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port
    raise OSError(f"all ports from {PORTS.start} to {PORTS.stop - 1} are in use; close some")
