"""Starts one agent on each host over ssh.

The token and the variables of the profile, which may be secrets, go through stdin, because all
users of a host can read the arguments of its processes. The agent ends when its stdin ends, which
happens when the ssh connection ends.
"""

import asyncio
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bigtrain.config.cluster import ClusterConfig
from launcher.environment import TOKEN_VARIABLE, read_environment
from launcher.slurm.srun import apptainer_words
from launcher.starters.child import SAVE_SECONDS, end_child, start_child

END_SECONDS = 10.0


@dataclass(slots=True)
class SshStarter:
    """One ssh for each host, which runs one agent for all ranks of the host."""

    cluster: ClusterConfig
    nodes: tuple[str, ...]
    python: str  # interpreter on the hosts
    folder: Path  # working folder on the hosts
    addresses: Callable[[], Sequence[str]]  # of the supervisor, the most likely first
    _children: list[asyncio.subprocess.Process] = field(default_factory=list)
    _watches: "list[asyncio.Task[None]]" = field(default_factory=list)

    @property
    def agents_per_node(self) -> int:
        """One for all ranks of a host."""
        return 1

    async def start(self, *, port: int, token: str, on_problem: Callable[[str, str], None]) -> None:
        """Starts ssh for all hosts.

        Raises:
            OSError: There is no ssh here.
        """
        addresses = await asyncio.to_thread(self.addresses)
        supervisors = ",".join(f"{address}:{port}" for address in addresses)
        for node in self.nodes:
            command = render_remote_command(
                self.cluster,
                node=node,
                python=self.python,
                folder=self.folder,
                supervisors=supervisors,
            )
            words = ("ssh", *self.cluster.ssh_options, node, command)
            child = await start_child(
                words, environment=read_environment(), stdin=asyncio.subprocess.PIPE
            )
            assert child.stdin is not None
            child.stdin.write(render_variables({**self.cluster.environment, TOKEN_VARIABLE: token}))
            self._children.append(child)
            watch = asyncio.create_task(self._report_end(node, child, on_problem))
            self._watches.append(watch)

    async def close(self, *, lets_ranks_save: bool = False) -> None:
        """Waits for the agents, and then ends what still runs."""
        seconds = SAVE_SECONDS if lets_ranks_save else END_SECONDS
        for child in self._children:
            if child.stdin is not None:
                child.stdin.close()
        await asyncio.gather(*(end_child(child, seconds=seconds) for child in self._children))
        for watch in self._watches:
            watch.cancel()

    @staticmethod
    async def _report_end(
        node: str, child: asyncio.subprocess.Process, on_problem: Callable[[str, str], None]
    ) -> None:
        code = await child.wait()
        on_problem(node, f"ssh {node} ended with code {code}; its output tells why")


def render_remote_command(
    cluster: ClusterConfig, *, node: str, python: str, folder: Path, supervisors: str
) -> str:
    """Renders the line for the shell of a host: it reads variables from stdin and runs the agent.

    Args:
        cluster: The profile.
        node: The host's name in the profile.
        python: The interpreter on the host.
        folder: The working folder.
        supervisors: Addresses and ports of the supervisor.
    """
    agent = (python, "-m", "launcher.agent", "--supervisor", supervisors, "--node", node)
    words = (*apptainer_words(cluster), *agent, "--ends-with-stdin")
    lines = [
        'while IFS= read -r pair && [ -n "$pair" ]; do export "$pair"; done',
        f"cd {shlex.quote(str(folder))} || exit 1",
        f"exec {shlex.join(words)}",
    ]
    # The user's login shell may be another one, such as fish.
    return f"exec bash -c {shlex.quote('; '.join(lines))}"


def render_variables(variables: Mapping[str, str]) -> bytes:
    """Renders what the remote command reads from stdin; a value is one line of text."""
    return "".join(f"{name}={value}\n" for name, value in variables.items()).encode() + b"\n"
