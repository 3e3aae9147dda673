"""Requeues or cancels a SLURM job that lost its batch host, and with it the supervisor.

The agents on the other nodes do it. Jobs are submitted with --no-kill, so that they survive the
loss of a node. So SLURM does not end a job that lost its batch host either: its other nodes would
stay allocated, unused, until the time limit.

An agent that lost its connection does not know whether the supervisor is dead, or lives but cannot
be reached. A job that is supervised must not be ended. So an agent acts only if

- the supervisor has not written its report into the shared run folder for `SILENT_SECONDS`, and
- SLURM says that the job runs. SLURM ends the job itself if the user cancelled it, or if the
  supervisor was killed and its node lives. Such a job must not be queued again.
"""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher.slurm import client
from launcher.slurm.errors import SlurmError, SlurmUnavailableError

logger = logging.getLogger(__name__)

SILENT_SECONDS = 60.0
"""A supervisor that writes no report for this long is gone. It writes one every two seconds, but
the clients of a network file system may show an old one for up to a minute."""
POLL_SECONDS = 1.0
STAGGER_SECONDS = 0.3
"""Delay between one node and the next, so that a thousand do not ask SLURM at the same moment."""
RETRY_SECONDS = 20.0
GIVE_UP_SECONDS = 900.0
"""How long the request is repeated while SLURM's controller is down."""


@dataclass(frozen=True, slots=True)
class AbandonedJob:
    """The job of an agent that lost its supervisor."""

    job_id: str
    restart: Literal["requeue", "chain", "none"]
    report: Path
    """The supervisor's report in the run folder."""
    node_index: int
    """Number of the node within the job."""

    async def requeue_or_cancel(self) -> str:
        """Requeues the job, or cancels it where jobs are not requeued.

        Does nothing if the supervisor lives, or if SLURM ends the job.

        Returns:
            One line: what was done, or why nothing was.
        """
        if await self._is_supervised():
            return "its supervisor lives, and has given this node up"
        await asyncio.sleep(self.node_index * STAGGER_SECONDS)
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while True:
            try:
                return await asyncio.to_thread(self._end)
            except SlurmUnavailableError as error:
                if time.monotonic() > deadline:
                    return f"it keeps its nodes until its time limit: {error}"
                await asyncio.sleep(RETRY_SECONDS)
            except SlurmError as error:
                return f"it keeps its nodes until its time limit, or was ended meanwhile: {error}"

    async def _is_supervised(self) -> bool:
        first = await asyncio.to_thread(self._read_report)
        deadline = time.monotonic() + SILENT_SECONDS
        while time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
            if await asyncio.to_thread(self._read_report) != first:
                return True
        return False

    def _read_report(self) -> bytes:
        with suppress(OSError):
            return self.report.read_bytes()
        return b""

    def _end(self) -> str:
        state = client.show_job(self.job_id).get("JobState", "")
        if state != "RUNNING":
            return f"SLURM says that it is {state}"
        if self.restart == "requeue":
            client.requeue_job(self.job_id)
            return "it is queued again, because its first node is lost"
        client.cancel_job(self.job_id)
        return "it is ended, because its first node is lost"
