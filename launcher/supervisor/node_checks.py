"""What the preflight checks may do with the nodes: ask their agents, and run ranks on them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bigtrain.config.node_names import compress_names
from launcher.agent.messages import Check, CheckResult
from launcher.failures import RankFailure, find_first_failure
from launcher.supervisor.agents import AgentLink, Agents
from launcher.supervisor.attempt import AttemptLimits, AttemptOutcome, RunningAttempt, node_of
from launcher.supervisor.rank_starts import (
    NodeRanks,
    StartSettings,
    find_master_address,
    place_ranks,
)
from launcher.supervisor.stops import StopWatch


@dataclass(frozen=True, slots=True)
class CheckAnswer:
    """The answer of a node's agent to a check."""

    result: Mapping[str, Any]
    error: str = ""
    """Why there is no result: an exception of the check, or no answer in time."""
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class RanksResult:
    """How ranks that were run for a check ended."""

    failure: RankFailure | None
    failed_nodes: tuple[str, ...]
    """The node of the rank that failed first, and the nodes that were lost or hung."""
    message: str
    """One line; empty if all ranks ended with code 0."""
    timed_out: bool = False


@dataclass(slots=True)
class NodeChecks:
    """The nodes of a job, for `Preflight`. No rank of the run runs meanwhile."""

    agents: Agents
    stops: StopWatch
    settings: StartSettings
    ranks_per_node: int

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes whose agents are connected, with spares."""
        return self.agents.ready()

    @property
    def log_dir(self) -> Path:
        """The folder for the output of checks, which all nodes share."""
        return self.settings.log_dir

    async def ask(self, node: str, arguments: Mapping[str, Any], *, seconds: float) -> CheckAnswer:
        """Lets the first agent of a node call ``launcher.preflight.checks.run_checks(arguments)``.

        Args:
            node: One of `nodes`.
            arguments: Values that JSON has.
            seconds: Limit for the answer.
        """
        links = self.agents.of_node(node)
        if not links:
            return CheckAnswer({}, "its agent is lost")
        return await self._ask_agent(links[0], arguments, seconds)

    async def _ask_agent(
        self, link: AgentLink, arguments: Mapping[str, Any], seconds: float
    ) -> CheckAnswer:
        request = self.agents.new_request()
        message = Check(request, dict(arguments))
        try:
            answer = await self.agents.ask(link, message, request, seconds=seconds)
        except TimeoutError:
            return CheckAnswer({}, f"no answer within {seconds:.0f} s", timed_out=True)
        assert isinstance(answer, CheckResult)
        return CheckAnswer(answer.result, answer.error)

    async def run_ranks(
        self,
        nodes: Sequence[str],
        command: Sequence[str],
        *,
        seconds: float,
        ranks_per_node: int | None = None,
    ) -> RanksResult:
        """Runs a command as ranks on some nodes, as a training is run, and waits for its end.

        Args:
            nodes: Some of `nodes`; several calls may run at the same time on different nodes.
            command: The command of each rank.
            seconds: Limit; ranks that run longer are killed, and their nodes count as failed.
            ranks_per_node: Ranks on each node; as many as in a training by default.
        """
        per_node = ranks_per_node or self.ranks_per_node
        agents = {node: self.agents.of_node(node) for node in nodes}
        if gone := [node for node in nodes if not agents[node]]:
            return RanksResult(None, tuple(gone), f"the agents of {', '.join(gone)} are lost")
        placed = place_ranks(nodes, per_node * len(nodes), per_node, agents)
        try:
            port = await self.agents.find_port(placed[0].agents[0])
        except TimeoutError:
            return RanksResult(None, (placed[0].node,), f"{placed[0].node} does not answer")
        limits = AttemptLimits(math.inf, math.inf, total_seconds=seconds)
        generation = self.agents.new_request()
        attempt = RunningAttempt(self.agents, placed, limits, self.stops, generation)
        start = replace(
            self.settings,
            generation=generation,
            command=tuple(command),
            # Checks that run at the same time must not share error files.
            log_dir=self.log_dir / placed[0].node,
            world_size=per_node * len(nodes),
            master=(find_master_address(placed), port),
        )
        return _describe(await attempt.run(start), placed, seconds)


def _describe(outcome: AttemptOutcome, placed: Sequence[NodeRanks], seconds: float) -> RanksResult:
    lost = tuple(outcome.lost)
    if lost:
        return RanksResult(None, lost, f"{compress_names(lost)} lost")
    if outcome.timed_out:
        killed = [rank for rank, end in sorted(outcome.ends.items()) if end.signalled]
        late = tuple(dict.fromkeys(node_of(placed, rank) or "" for rank in killed))
        return RanksResult(None, late, f"not done within {seconds:.0f} s", timed_out=True)
    if outcome.start_failed is not None:
        node, message = outcome.start_failed
        return RanksResult(None, (node,), message)
    failure = find_first_failure(list(outcome.ends.values()))
    if failure is None:
        return RanksResult(None, (), "")
    where = node_of(placed, failure.rank)
    nodes = () if where is None else (where,)
    return RanksResult(failure, nodes, f"rank {failure.rank} on {where}: {failure.message}")
