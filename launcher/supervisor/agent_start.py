"""Starts the agents of a job, and starts them again if what starts them fails.

A single srun may fail for a reason that has passed a few seconds later, such as a node that was
still in use or a controller that was busy.
"""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass

from bigtrain.config.node_names import compress_names
from launcher.supervisor.addresses import own_addresses
from launcher.supervisor.agents import Agents, describe_missing
from launcher.supervisor.interfaces import Starter
from launcher.supervisor.job_settings import JobSettings
from launcher.supervisor.stops import StopWatch

logger = logging.getLogger("launcher.supervisor")


@dataclass(slots=True)
class AgentStart:
    """Starts the agents, and waits for them."""

    job: JobSettings
    job_id: str | None
    agents: Agents
    starter: Starter
    stops: StopWatch
    starter_ended: str = ""  # why, if what starts all agents has ended, such as srun
    _is_starting: bool = True

    async def start(self) -> None:
        """Starts the agents, and waits for those of all nodes, for a limit, or for a stop."""
        interface = self.job.cluster.network_interface
        hosts = own_addresses(interface) if interface else []
        port = await self.agents.listen(hosts)
        logger.info(
            "job %s: starting the agents of %d nodes: %s",
            self.job_id or "(none)",
            len(self.agents.nodes),
            compress_names(self.agents.nodes),
        )
        for left in reversed(range(self.job.agent_starts)):
            await self._start_once(port)
            if not self.starter_ended or self._is_stopped or not left:
                break
            # A preemption ends srun, too.
            await self.stops.ask_scheduler()
            if not self._is_stopped:
                await self._prepare_next_start()
            if self._is_stopped:
                break
        self._is_starting = False
        if self.starter_ended:
            self._lose_missing(self.starter_ended)

    async def _start_once(self, port: int) -> None:
        self.starter_ended = ""
        await self.starter.start(port=port, token=self.agents.token, on_problem=self._on_problem)
        began = time.monotonic()
        while not self._is_complete and not self.starter_ended and not self._is_stopped:
            left = began + self.job.agent_connect_seconds - time.monotonic()
            if left <= 0:
                limit = self.job.agent_connect_seconds
                logger.error("%s within %.0f s", describe_missing(self.agents), limit)
                self._lose_missing(f"no agent within {limit:.0f} s")
                break
            await self._wait(left)
        logger.info(
            "agents of %d nodes after %.1f s", len(self.agents.ready()), time.monotonic() - began
        )

    async def _prepare_next_start(self) -> None:
        pause = self.job.agent_start_pause_seconds
        logger.warning("%s; starting the agents again in %.0f s", self.starter_ended, pause)
        await self.agents.start_again()
        await self.starter.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stops.requested.wait(), pause)

    async def _wait(self, seconds: float) -> None:
        """Waits for a change of the agents or a stop, at most this time."""
        self.agents.changed.clear()
        waits = [
            asyncio.ensure_future(each.wait())
            for each in (self.agents.changed, self.stops.requested)
        ]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    def _on_problem(self, node: str, message: str) -> None:
        """A starter's process has ended: nodes without an agent will never have one."""
        if not node:
            self.starter_ended = message
            self.agents.changed.set()
            if not self._is_starting:
                self._lose_missing(message)
        elif node not in self.agents.ready():
            self.agents.lose(node, message)

    def _lose_missing(self, message: str) -> None:
        for node in set(self.agents.nodes) - set(self.agents.ready()):
            self.agents.lose(node, message)

    @property
    def _is_complete(self) -> bool:
        return {*self.agents.ready(), *self.agents.lost} >= {*self.agents.nodes}

    @property
    def _is_stopped(self) -> bool:
        return self.stops.stop is not None
