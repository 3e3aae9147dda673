"""Starts the agents of a SLURM job with one srun."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bigtrain.config.cluster import ClusterConfig
from launcher.environment import TOKEN_VARIABLE, read_environment
from launcher.slurm.srun import render_srun_command, tasks_per_node
from launcher.starters.child import SAVE_SECONDS, end_child, start_child

END_SECONDS = 10.0


@dataclass(slots=True)
class SrunStarter:
    """One srun for all nodes of the job."""

    cluster: ClusterConfig
    nodes: tuple[str, ...]
    python: str  # interpreter on the nodes
    addresses: Callable[[], Sequence[str]]  # of the supervisor, the most likely first
    report: Path  # supervisor.json in the run folder
    _srun: asyncio.subprocess.Process | None = None
    _watch: "asyncio.Task[None] | None" = field(default=None)

    @property
    def agents_per_node(self) -> int:
        """One for each rank, or one that runs torchrun."""
        return tasks_per_node(self.cluster)

    async def start(self, *, port: int, token: str, on_problem: Callable[[str, str], None]) -> None:
        """Starts srun.

        Raises:
            OSError: There is no srun here.
        """
        addresses = await asyncio.to_thread(self.addresses)
        supervisors = ",".join(f"{address}:{port}" for address in addresses)
        agent = (
            *(self.python, "-m", "launcher.agent", "--supervisor", supervisors),
            *("--restart", self.cluster.restart, "--report", str(self.report)),
        )
        words = render_srun_command(self.cluster, nodes=len(self.nodes), agent_command=agent)
        environment = {**read_environment(), TOKEN_VARIABLE: token}
        self._srun = await start_child(words, environment=environment)
        self._watch = asyncio.create_task(self._report_end(self._srun, on_problem))

    async def close(self, *, lets_ranks_save: bool = False) -> None:
        """Waits for srun, which ends when the last agent has ended."""
        if self._srun is not None:
            seconds = SAVE_SECONDS if lets_ranks_save else END_SECONDS
            await end_child(self._srun, seconds=seconds)
        if self._watch is not None:
            self._watch.cancel()

    @staticmethod
    async def _report_end(
        srun: asyncio.subprocess.Process, on_problem: Callable[[str, str], None]
    ) -> None:
        code = await srun.wait()
        on_problem("", f"srun ended with code {code}; its output tells why")
