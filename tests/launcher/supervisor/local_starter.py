"""Starts the agents of a supervised job on this machine."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import launcher

REPOSITORY = Path(launcher.__file__).parents[1]
SRUN_ENDED = "srun ended with code 1; its output tells why"


@dataclass
class LocalStarter:
    """Starts agents as processes of this machine that claim to be on different nodes."""

    nodes: tuple[str, ...]
    agents_per_node: int = 1
    missing: tuple[str, ...] = ()
    grace_seconds: float = 1.0
    lets_ranks_save: bool | None = None  # as given to `close`
    agents: dict[tuple[str, int], subprocess.Popen[bytes]] = field(default_factory=dict)
    port: int = 0
    failures: int = 0
    """How many starts end at once, as srun may."""
    starts_some: bool = False
    """Whether they start an agent, which then dies."""
    connected: Callable[[], bool] = lambda: False
    starts: int = 0

    async def start(self, *, port: int, token: str, on_problem: Callable[[str, str], None]) -> None:
        self.port = port
        self.starts += 1
        if self.starts <= self.failures:
            if self.starts_some:
                asyncio.get_running_loop().create_task(self._fail_later(token, on_problem))
            else:
                on_problem("", SRUN_ENDED)
            return
        for node in self.nodes:
            for task in range(self.agents_per_node):
                if node not in self.missing:
                    self.agents[node, task] = self.start_agent(node, task, token)
                else:
                    on_problem(node, "it does not exist")

    async def _fail_later(self, token: str, on_problem: Callable[[str, str], None]) -> None:
        agent = self.start_agent(self.nodes[0], 0, token)
        while not self.connected():
            await asyncio.sleep(0.01)
        agent.kill()
        agent.wait()
        on_problem("", SRUN_ENDED)

    def start_agent(self, node: str, task: int, token: str) -> subprocess.Popen[bytes]:
        options = ("--node", node, "--task", str(task), "--grace-seconds", str(self.grace_seconds))
        where = ("--supervisor", f"127.0.0.1:{self.port}")
        return subprocess.Popen(
            [sys.executable, "-m", "launcher.agent", *where, *options],
            env={**os.environ, "BIGTRAIN_JOB_TOKEN": token, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    async def close(self, *, lets_ranks_save: bool = False) -> None:
        self.lets_ranks_save = lets_ranks_save
        for agent in self.agents.values():
            await asyncio.to_thread(agent.wait, 10)
