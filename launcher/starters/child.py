"""A process that a starter runs, such as srun or ssh.

If the supervisor is killed, its agents notice that and end, and then these processes end. They are
not killed together with the supervisor, because a killed srun kills the agents before their ranks
have saved.
"""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress

from launcher.agent.options import GRACE_SECONDS

SAVE_SECONDS = GRACE_SECONDS + 30
"""Limit for agents that let their ranks save; they kill ranks that take longer, and end."""


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
    return await asyncio.create_subprocess_exec(
        *words,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
        # Without it, the signals for the supervisor's terminal or batch step would reach it too.
        start_new_session=True,
    )


async def end_child(child: asyncio.subprocess.Process, *, seconds: float) -> None:
    """Waits for the end of a process; sends SIGTERM after `seconds`, and then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), seconds)
            return
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
    with suppress(TimeoutError):
        await asyncio.wait_for(child.wait(), seconds)
