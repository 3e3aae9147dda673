"""A process that a starter runs, such as srun or ssh: it ends when the supervisor dies."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from launcher import rank_exec


async def start_child(
    words: Sequence[str], *, environment: Mapping[str, str], stdin: int | None = None
) -> asyncio.subprocess.Process:
    """Starts a process in a session of its own; its output is that of the supervisor.

    Args:
        words: The command.
        environment: All its variables.
        stdin: `asyncio.subprocess.PIPE`, or None for no input.

    Raises:
        OSError: There is no such program.
    """
    wrapper = (sys.executable, "-I", "-S", str(rank_exec.__file__), str(os.getpid()))
    return await asyncio.create_subprocess_exec(
        *(*wrapper, *words),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
        # Without it, the signals for the supervisor's terminal or batch step would reach it too.
        start_new_session=True,
    )


async def end_child(child: asyncio.subprocess.Process, *, seconds: float) -> None:
    """Waits for the end of a process; after `seconds` it gets SIGTERM, and then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), seconds)
            return
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
    with suppress(TimeoutError):
        await asyncio.wait_for(child.wait(), seconds)
