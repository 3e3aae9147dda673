"""The preflight of a job: checks all nodes before its first ranks start, and finds bad ones.

1. Every agent checks its node without ranks (`checks.run_checks`); nodes with a problem are bad.
2. Every node without a problem measures itself, with ranks that only connect inside the node.
3. Pairs of nodes measure the all-reduce between them.

The ranks of different nodes and pairs are separate process groups, started separately, so that a
bad node delays the others at most by a time limit. A node that seems slow is measured a second time
and the better figure counts, since a single slow second has many harmless causes.
"""

import asyncio
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from bigtrain.config.file_errors import is_bad_input
from launcher.files import replace_file
from launcher.preflight.judge import Figure, JudgePolicy, Verdict, judge_nodes, slow_nodes
from launcher.preflight.pairs import (
    ROUNDS,
    Pair,
    PairResult,
    best_results,
    good_nodes,
    plan_pairs,
)

logger = logging.getLogger(__name__)

SCHEMA = "bigtrain-preflight/1"
ANSWER_SECONDS = 10.0
"""Time for an answer of an agent, in addition to the limit of its checks."""


class Answer(Protocol):
    """The answer of an agent to a check."""

    @property
    def result(self) -> Mapping[str, Any]:
        """What `checks.run_checks` returned."""

    @property
    def error(self) -> str:
        """Why there is no result; empty if there is one."""

    @property
    def timed_out(self) -> bool:
        """Whether there was no answer in time."""


class RanksEnd(Protocol):
    """How the ranks of a check ended."""

    @property
    def failed_nodes(self) -> Sequence[str]:
        """The nodes that caused the failure, as far as that is known."""

    @property
    def message(self) -> str:
        """One line; empty if all ranks ended with code 0."""

    @property
    def timed_out(self) -> bool:
        """Whether they were ended at the limit."""


class CheckedNodes(Protocol):
    """What the preflight may do with the nodes of a job."""

    @property
    def nodes(self) -> Sequence[str]:
        """The nodes whose agents answer, with spares, in the scheduler's order."""

    async def ask(self, node: str, arguments: Mapping[str, Any], *, seconds: float) -> Answer:
        """Lets the agent of a node call ``checks.run_checks(arguments)``."""

    async def run_ranks(
        self, nodes: Sequence[str], command: Sequence[str], *, seconds: float
    ) -> RanksEnd:
        """Runs a command as ranks on some nodes, and waits for its end; several at a time."""


@dataclass(frozen=True, slots=True)
class PreflightPlan:
    """What is checked, and where the results go."""

    arguments: Mapping[str, Any]
    """The arguments of `checks.run_checks`."""
    command: tuple[str, ...]
    """The command ``bigtrain preflight-rank CONFIG``; empty if nothing is measured."""
    ranks_per_node: int
    folder: Path
    """Folder that all nodes share, for the figures of the ranks; it is emptied first."""
    file: Path
    """``preflight.json`` of the run folder."""
    check_seconds: float = 60.0
    """Limit of each check without ranks."""
    node_seconds: float = 300.0
    """Limit of the ranks inside a node. The first import of torch can take many minutes if
    hundreds of ranks read it from one file server."""
    pair_seconds: float = 180.0
    """Limit of the ranks of a pair."""
    policy: JudgePolicy = field(default_factory=JudgePolicy)


async def run_preflight(nodes: CheckedNodes, plan: PreflightPlan) -> Verdict:
    """Checks the nodes of a job, and writes the figures of every node into a file.

    If the run folder must not be written, the job is refused.

    Raises:
        OSError: The run folder cannot be written, perhaps only for a time.
    """
    started = time.monotonic()
    preflight = _Preflight(nodes, plan)
    try:
        await preflight.check_hosts()
        if plan.command and not preflight.verdict().refusal:
            shutil.rmtree(plan.folder, ignore_errors=True)
            await preflight.measure_nodes()
            await preflight.measure_pairs()
        verdict = preflight.verdict()
        for warning in verdict.warnings:
            logger.warning("preflight: not held against the nodes, as many share it: %s", warning)
        _write_results(plan.file, preflight, verdict, time.monotonic() - started)
    except OSError as error:
        if not is_bad_input(error):
            raise
        where = error.filename or plan.file
        return Verdict(refusal=f"{where}: {error.strerror or error}; the run cannot write here")
    return verdict


def summarize(verdict: Verdict, *, nodes: int) -> str:
    """The verdict in one line."""
    if verdict.refusal:
        return verdict.refusal
    if not verdict.bad:
        return f"all {nodes} nodes are good" if nodes > 1 else "the node is good"
    reasons = "; ".join(f"{node}: {reason}" for node, reason in verdict.bad.items())
    return f"{len(verdict.bad)} of {nodes} nodes are bad: {reasons}"


class _Preflight:
    """The figures of the nodes so far."""

    def __init__(self, nodes: CheckedNodes, plan: PreflightPlan) -> None:
        self.figures: dict[str, dict[str, Figure]] = {node: {} for node in nodes.nodes}
        self.pairs: dict[Pair, PairResult] = {}
        self._nodes, self._plan = nodes, plan
        self._refusal = ""

    def verdict(self) -> Verdict:
        verdict = judge_nodes(self.figures, self._plan.policy)
        return replace(verdict, refusal=verdict.refusal or self._refusal)

    def _good(self) -> list[str]:
        bad = self.verdict().bad
        return [node for node in self.figures if node not in bad]

    async def check_hosts(self) -> None:
        await asyncio.gather(*(self._check_host(node) for node in self.figures))

    async def _check_host(self, node: str) -> None:
        figures = self.figures[node]
        clock = await self._ask_clock(node)
        if clock.problem:
            figures["agent"] = clock
            return
        figures["clock"] = clock
        limit = self._plan.check_seconds
        arguments = {**self._plan.arguments, "limit_seconds": limit}
        answer = await self._nodes.ask(node, arguments, seconds=limit + ANSWER_SECONDS)
        if answer.error:
            figures["agent"] = Figure(problem=answer.error, is_temporary=answer.timed_out)
            return
        for check, found in answer.result["checks"].items():
            figures[check] = Figure(**found)

    async def _ask_clock(self, node: str) -> Figure:
        """Seconds by which the node's clock is certainly ahead, whatever the answer's delay."""
        asked = time.time()
        answer = await self._nodes.ask(node, {"only_clock": True}, seconds=ANSWER_SECONDS)
        if answer.error:
            return Figure(problem=answer.error, is_temporary=answer.timed_out)
        answered = time.time()
        unknown = (answered - asked) / 2
        skew = answer.result["time"] - (asked + answered) / 2
        sure = max(0.0, abs(skew) - unknown) * (1 if skew > 0 else -1)
        return Figure(round(sure, 3), seconds=round(answered - asked, 3))

    async def measure_nodes(self) -> None:
        good = self._good()
        await asyncio.gather(*(self._measure_node(node, 1) for node in good))
        again = [node for node in good if node in self._seems_slow(good)]
        if again and len(again) < len(good):
            logger.info("measuring again: %s", ", ".join(again))
            await asyncio.gather(*(self._measure_node(node, 2) for node in again))

    def _seems_slow(self, good: Sequence[str]) -> set[str]:
        products = {node: self.figures[node]["product"] for node in good}
        # A node that reached the time limit is not measured again, which would take as long.
        found = {node for node, each in products.items() if each.problem and not each.is_temporary}
        for check in ("product", "all_reduce"):
            rates = {
                node: self.figures[node][check].value
                for node in good
                if check in self.figures[node] and self.figures[node][check].value is not None
            }
            found |= set(slow_nodes(rates, self._plan.policy))
        return found

    async def _measure_node(self, node: str, round_number: int) -> None:
        started, figures = time.monotonic(), self.figures[node]
        folder = f"{node}-{round_number}"
        rates, problem, late = await self._measure((node,), folder, (), self._plan.node_seconds)
        seconds = round(time.monotonic() - started, 3)
        for check in ("product", "all_reduce"):
            if rate := rates.get(check):
                before = figures.get(check)
                best = max(rate, before.value or 0.0) if before else rate
                figures[check] = Figure(best, seconds=seconds)
        if problem:
            missing = "all_reduce" if "product" in rates else "product"
            figures[missing] = Figure(problem=problem, seconds=seconds, is_temporary=late)

    async def measure_pairs(self) -> None:
        # Nodes that reached the limit when they measured themselves would reach this one, too.
        good = [node for node in self._good() if self.figures[node]["product"].value is not None]
        ratio = self._plan.policy.slow_ratio
        for _ in range(ROUNDS):
            pairs = plan_pairs(good, self.pairs, ratio=ratio)
            if not pairs:
                break
            started = time.monotonic()
            results = await asyncio.gather(*(self._measure_pair(pair) for pair in pairs))
            self.pairs |= dict(zip(pairs, results, strict=True))
            seconds = round(time.monotonic() - started, 3)
            for node, best in best_results(good, self.pairs).items():
                self.figures[node]["pair_all_reduce"] = Figure(best.rate, best.problem, seconds)
        if self.pairs and not good_nodes(self.pairs, ratio=ratio):
            self._refuse_pairs(good)

    def _refuse_pairs(self, nodes: Sequence[str]) -> None:
        """No pair works, so no single node can be found to be bad."""
        problem = next(iter(self.pairs.values())).problem
        self._refusal = (
            f"no two nodes can communicate ({problem}); set network_interface in the cluster "
            "profile to the network that all nodes share"
        )
        for node in nodes:
            self.figures[node].pop("pair_all_reduce", None)

    async def _measure_pair(self, pair: Pair) -> PairResult:
        name = "+".join(pair)
        rates, problem, _ = await self._measure(pair, name, ("--pair",), self._plan.pair_seconds)
        if problem:
            return PairResult(None, f"between {pair[0]} and {pair[1]}: {problem}")
        return PairResult(rates.get("all_reduce"))

    async def _measure(
        self, nodes: Sequence[str], name: str, options: Sequence[str], seconds: float
    ) -> tuple[dict[str, float], str, bool]:
        """The lowest rates of the ranks, and the problem if not all of them succeeded."""
        folder = self._plan.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        command = (*self._plan.command, "--folder", str(folder), *options)
        end = await self._nodes.run_ranks(nodes, command, seconds=seconds)
        rates = [
            _load_rates(folder / f"rank-{rank}.json")
            for rank in range(len(nodes) * self._plan.ranks_per_node)
        ]
        problem = end.message
        if not problem and not all(rates):
            problem = f"rank {rates.index({})} wrote no figures"
        checks = set.intersection(*(set(each) for each in rates))
        lowest = {check: min(each[check] for each in rates) for check in checks}
        return lowest, problem, end.timed_out


def _load_rates(file: Path) -> dict[str, float]:
    try:
        return {str(name): float(rate) for name, rate in json.loads(file.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _write_results(file: Path, preflight: _Preflight, verdict: Verdict, seconds: float) -> None:
    results = {
        "schema": SCHEMA,
        "time": time.time(),
        "seconds": round(seconds, 1),
        "refusal": verdict.refusal,
        "nodes": {
            node: {
                "verdict": "bad" if node in verdict.bad else "good",
                "reason": verdict.bad.get(node, ""),
                "checks": {check: asdict(figure) for check, figure in figures.items()},
            }
            for node, figures in preflight.figures.items()
        },
        "pairs": [
            {"nodes": list(pair), **asdict(result)} for pair, result in preflight.pairs.items()
        ],
    }
    replace_file(file, json.dumps(results, indent=1))
