"""Raises the limit of open files for a supervisor of many agents: each connection is one.

SLURM gives a job the limits of the shell that submitted it, often 1,024 files.
"""

import logging
import resource

logger = logging.getLogger(__name__)

OTHER_FILES = 256
"""Files that the supervisor needs besides its connections."""


def raise_open_files(connections: int) -> None:
    """Raises the soft limit of open files as far as it is needed; logs one line if it is too low.

    A higher limit than needed is not set, because the agents and the ranks inherit it.

    Args:
        connections: How many connections may be open at the same time.
    """
    needed = connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < needed:
        logger.error(
            "the limit of open files is %d (ulimit -Hn), and %d are needed for all agents: ask an "
            "administrator to raise it on this machine, or use fewer nodes or starter: torchrun",
            *(hard, needed),
        )
