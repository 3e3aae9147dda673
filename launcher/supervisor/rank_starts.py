"""Places ranks on agents, and renders what each agent starts. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.agent.messages import Start
from launcher.agent.torchrun import render_torchrun_options
from launcher.ranks import render_rank_environment, threads_per_rank
from launcher.supervisor.agents import AgentLink


@dataclass(frozen=True, slots=True)
class NodeRanks:
    """The ranks of one node."""

    node: str
    first: int
    count: int
    agents: tuple[AgentLink, ...]

    @property
    def ranks(self) -> range:
        """The numbers of its ranks."""
        return range(self.first, self.first + self.count)

    def by_agent(self) -> list[tuple[AgentLink, tuple[int, ...]]]:
        """The agents that get ranks, with their ranks: one rank for each agent, or all for one."""
        if len(self.agents) == 1:
            return [(self.agents[0], tuple(self.ranks))]
        return [(agent, (rank,)) for agent, rank in zip(self.agents, self.ranks, strict=False)]


@dataclass(frozen=True, slots=True)
class StartSettings:
    """What all ranks of an attempt have in common."""

    generation: int
    command: tuple[str, ...]
    log_dir: Path
    world_size: int
    master: tuple[str, int]
    network_interface: str | None
    threads: int | None  # of each rank; None divides the cores of a node evenly
    torchrun: bool


def place_ranks(
    nodes: Sequence[str],
    world_size: int,
    ranks_per_node: int,
    agents: Mapping[str, Sequence[AgentLink]],
) -> list[NodeRanks]:
    """Numbers the ranks node by node; the last node may have fewer than the others."""
    return [
        NodeRanks(
            node=node,
            first=first,
            count=min(ranks_per_node, world_size - first),
            agents=tuple(agents[node]),
        )
        for node, first in zip(nodes, range(0, world_size, ranks_per_node), strict=False)
    ]


def find_master_address(placed: Sequence[NodeRanks]) -> str:
    """The address of rank 0's node that all other nodes reach.

    It is the address from which the agent of rank 0 connected. If the agent is on the supervisor's
    machine and connected from the loopback address, it is the address at which the supervisor was
    reached by an agent of another machine.
    """
    first = placed[0].agents[0].connection
    if not is_loopback(first.peer_address):
        return first.peer_address
    reached = (agent.connection.own_address for node in placed for agent in node.agents)
    others = [address for address in reached if not is_loopback(address)]
    return others[0] if others else first.peer_address


def render_starts(
    placed: Sequence[NodeRanks], settings: StartSettings
) -> list[tuple[AgentLink, Start]]:
    """Renders the message for each agent that gets ranks."""
    starts = []
    for number, node in enumerate(placed):
        for agent, ranks in node.by_agent():
            start = Start(
                generation=settings.generation,
                command=settings.command,
                environments=tuple(_environment(node, agent, rank, settings) for rank in ranks),
                log_dir=str(settings.log_dir),
                torchrun=render_torchrun_options(
                    nodes=len(placed),
                    node_rank=number,
                    ranks_per_node=node.count,
                    master=settings.master,
                )
                if settings.torchrun
                else (),
            )
            starts.append((agent, start))
    return starts


def is_loopback(address: str) -> bool:
    """Whether an address reaches only its own machine."""
    return address.startswith("127.") or address == "::1"


def _environment(
    node: NodeRanks, agent: AgentLink, rank: int, settings: StartSettings
) -> dict[str, str]:
    numbers = render_rank_environment(
        rank=rank,
        local_rank=rank - node.first,
        world_size=settings.world_size,
        local_world_size=node.count,
        master=settings.master,
        log_dir=settings.log_dir,
    )
    cores = {core for each in node.agents for core in each.hello.cores}
    threads = settings.threads or threads_per_rank(len(cores), node.count)
    return {
        **numbers,
        "OMP_NUM_THREADS": str(threads),
        "BIGTRAIN_NODE": node.node,
        **_interface_variables(agent, settings.network_interface),
    }


def _interface_variables(agent: AgentLink, interface: str | None) -> dict[str, str]:
    """The network interface for gloo and NCCL.

    Without a given one, gloo gets the interface that reaches the supervisor: by itself it would
    look up the host name, which need not resolve. NCCL finds the fastest by itself.
    """
    if interface is not None:
        # NCCL compares the beginning of a name, unless the value begins with "=".
        return {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}
    own = agent.connection.peer_address
    for name, address in agent.hello.interfaces.items():
        if address == own:
            return {"GLOO_SOCKET_IFNAME": name}
    return {}
