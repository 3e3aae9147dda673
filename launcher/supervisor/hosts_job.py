"""A job on plain hosts: it has no queue and no time limit, and only the user stops it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launcher.supervisor.values import RequeueResult, StopCause

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HostsJob:
    """A `Scheduler` without a scheduler."""

    nodes: tuple[str, ...]
    job_id: str | None = None
    restart_count: int = 0
    can_requeue: bool = False

    async def end_time(self) -> float | None:
        """None: there is no limit."""
        return None

    async def why_terminated(self) -> StopCause:
        """The user sent the signal."""
        return StopCause.USER

    async def why_ending(self) -> StopCause | None:
        """None: nothing ends the job."""
        return None

    async def begin(self) -> None:
        """Nothing to do."""

    async def kill_time(self) -> float | None:
        """None: nothing kills the processes."""
        return None

    async def requeue(self) -> RequeueResult:
        """Never called, since `can_requeue` is False."""
        return RequeueResult.REFUSED

    async def release(self) -> None:
        """Nothing to do."""

    def find_avoided(self) -> Mapping[str, str]:
        """None: the user takes bad hosts out of the profile."""
        return {}

    def remember_excluded(self, nodes: Sequence[str], reason: str) -> None:
        """Logs the hosts: only the user can take them out of the profile."""
        logger.warning("do not use %s: %s", ", ".join(nodes), reason)
