"""What an agent knows about its machine: network addresses and versions of packages."""

import fcntl
import os
import platform
import socket
import struct
import time
from importlib.metadata import PackageNotFoundError, version

from launcher.agent.messages import Hello

PACKAGES = ("bigtrain", "torch", "deepspeed", "megatron-core", "numpy", "transformers")
SIOCGIFADDR = 0x8915  # <linux/sockios.h>


def render_hello(*, token: str, node: str, task: int) -> Hello:
    """Renders the first message of an agent.

    Args:
        token: The job's token.
        node: The scheduler's name of this node.
        task: Number of the agent among those of its node.
    """
    return Hello(
        token=token,
        node=node,
        task=task,
        host=socket.gethostname(),
        interfaces=find_addresses(),
        pid=os.getpid(),
        cores=tuple(sorted(os.sched_getaffinity(0))),
        time=time.time(),
        python=platform.python_version(),
        packages={name: found for name in PACKAGES if (found := _version(name))},
    )


def find_addresses() -> dict[str, str]:
    """The IPv4 address of each network interface that has one, by the interface's name."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
            except OSError:  # An interface without an address.
                continue
            found[name] = socket.inet_ntoa(answer[20:24])
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
