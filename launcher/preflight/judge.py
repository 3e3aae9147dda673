"""Decides which nodes must not be used, from the figures of their checks. Pure.

A node is compared with the other nodes of the job, and not with a table of what its hardware should
reach, because such a table would need every GPU, clock and power limit.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from launcher.supervisor.describe import name_nodes

SLOW_RATIO = 0.7
"""A node below this share of the median rate is bad. Healthy GPUs of one kind differ by up to 10 %
(clocks, temperature), and a measurement on a shared network by somewhat more; a throttled GPU, a
link that fell back to half of its lanes, or a failed network port loses a third or more."""
CPU_SLOW_RATIO = 0.3
"""The same without GPUs: on CPUs that other programs use too, the rates of equal nodes were seen to
differ by a factor of 2."""
CLOCK_SECONDS = 5.0
"""A node with a larger clock skew is bad: times in logs and of files could not be compared."""
SHARED_CHECKS = ("folders", "data")
"""Checks of shared file systems: a problem that most nodes have is not a problem of a node."""
SHARED_SHARE = 0.25
"""A temporary problem that at least this share of the nodes has is not held against them."""
EQUAL_CHECKS = ("versions", "config")
"""Checks whose values must be equal on all nodes."""


@dataclass(frozen=True, slots=True)
class Figure:
    """The result of one check on one node."""

    value: Any = None
    problem: str = ""
    """One line; empty if there is none."""
    seconds: float = 0.0
    is_temporary: bool = False
    """Whether the problem may be temporary: a time limit, or a file system that failed."""


Figures = Mapping[str, Figure]
"""The results of a node, by check."""


@dataclass(frozen=True, slots=True)
class JudgePolicy:
    """The limits that make a node bad."""

    slow_ratio: float = SLOW_RATIO
    clock_seconds: float = CLOCK_SECONDS


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which nodes must not be used."""

    bad: dict[str, str] = field(default_factory=dict)
    """Nodes, each with the reason in one line."""
    refusal: str = ""
    """Why the job must not start on any nodes, in one line; empty if it may."""
    warnings: tuple[str, ...] = ()
    """Temporary problems that many nodes share, so that no node is to blame."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How a rate is shown."""

    name: str
    unit: str
    scale: float


RATES = {
    "product": Rate("matrix product", "TFLOP/s", 1e12),
    "all_reduce": Rate("all-reduce inside the node", "GB/s", 1e9),
    "pair_all_reduce": Rate("all-reduce with other nodes", "GB/s", 1e9),
}
"""Checks whose values are rates, which are compared with the median."""


def judge_nodes(results: Mapping[str, Figures], policy: JudgePolicy) -> Verdict:
    """Finds the nodes that must not be used.

    A temporary problem is held against a node only if few nodes have it: a slow shared file system
    is not a fault of the nodes. Any other problem counts.

    A job is refused if most nodes have a problem with a shared file system, if all of several nodes
    fail the same check, or if nodes have different versions or configs and no majority shows which
    are right.

    Args:
        results: The figures of each node, in the order of the nodes.
        policy: The limits.
    """
    results, warnings = _without_shared_temporary(results)
    return replace(_judge(results, policy), warnings=warnings)


def _judge(results: Mapping[str, Figures], policy: JudgePolicy) -> Verdict:
    refusal = _shared_problem(results)
    if refusal:
        return Verdict(refusal=refusal)
    bad = {node: problem for node, figures in results.items() if (problem := _problem(figures))}
    for check in EQUAL_CHECKS:
        good = {node: figures for node, figures in results.items() if node not in bad}
        minority, refusal = _compare_equal(check, good)
        if refusal:
            return Verdict(bad, refusal)
        bad |= minority
    for rule in (_slow_nodes, _skewed_nodes):
        bad |= rule({n: figures for n, figures in results.items() if n not in bad}, policy)
    return Verdict({node: bad[node] for node in results if node in bad})


def slow_nodes(rates: Mapping[str, float], policy: JudgePolicy) -> list[str]:
    """The nodes whose rate is too far below the median of all rates."""
    if not rates:
        return []
    limit = policy.slow_ratio * median(rates.values())
    return [node for node, rate in rates.items() if rate < limit]


def _without_shared_temporary(
    results: Mapping[str, Figures],
) -> tuple[dict[str, Figures], tuple[str, ...]]:
    """The results without temporary problems that many nodes share, and a line for each."""
    found: dict[str, dict[str, str]] = {}
    for node, figures in results.items():
        for check, figure in figures.items():
            if figure.is_temporary:
                found.setdefault(check, {})[node] = figure.problem
    shared = {
        check: nodes
        for check, nodes in found.items()
        if len(nodes) == len(results)
        or (len(nodes) > 1 and len(nodes) >= SHARED_SHARE * len(results))
    }
    kept: dict[str, Figures] = {
        node: {
            check: figure for check, figure in figures.items() if node not in shared.get(check, ())
        }
        for node, figures in results.items()
    }
    return kept, tuple(
        f"{name_nodes(list(nodes))}: {check}: {Counter(nodes.values()).most_common(1)[0][0]}"
        for check, nodes in shared.items()
    )


def _problem(figures: Figures) -> str:
    return "; ".join(
        f"{check}: {figure.problem}" for check, figure in figures.items() if figure.problem
    )


def _shared_problem(results: Mapping[str, Figures]) -> str:
    """A problem that most or all nodes have, in one line; empty if there is none."""
    problems: dict[str, dict[str, str]] = {}
    for node, figures in results.items():
        for check, figure in figures.items():
            if figure.problem:
                problems.setdefault(check, {})[node] = figure.problem
    for check, found in problems.items():
        is_everywhere = 1 < len(found) == len(results)
        if is_everywhere or (check in SHARED_CHECKS and 2 * len(found) > len(results)):
            nodes = "all nodes" if is_everywhere else name_nodes(list(found))
            return f"{nodes}: {check}: {Counter(found.values()).most_common(1)[0][0]}"
    return ""


def _compare_equal(check: str, results: Mapping[str, Figures]) -> tuple[dict[str, str], str]:
    """The minority with its reasons, or a refusal if there is no majority."""
    values = {
        node: _as_items(figures[check].value)
        for node, figures in results.items()
        if check in figures
    }
    counts = Counter(values.values())
    if len(counts) < 2:
        return {}, ""
    most, count = counts.most_common(1)[0]
    if 2 * count <= len(values):
        first = {value: node for node, value in reversed(values.items())}
        one, other = list(counts)[:2]
        return {}, (
            f"the nodes do not agree: {first[one]} has {_difference(check, one, other)} than "
            f"{first[other]}, and no majority shows which is right; install the same on all nodes"
        )
    example = next(node for node, value in values.items() if value == most)
    return {
        node: f"{check}: {_difference(check, value, most)} than {example} and most nodes"
        for node, value in values.items()
        if value != most
    }, ""


def _as_items(value: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(value, Mapping):
        return tuple(sorted((str(key), str(each)) for key, each in value.items()))
    return (("", str(value)),)


def _difference(
    check: str, ours: tuple[tuple[str, str], ...], theirs: tuple[tuple[str, str], ...]
) -> str:
    if check == "config":
        return "a different config of the job"
    expected = dict(theirs)
    different = [
        f"{name} {value} instead of {expected.get(name, 'none')}"
        for name, value in ours
        if expected.get(name) != value
    ]
    return "other versions (" + ", ".join(different) + ")"


def _slow_nodes(results: Mapping[str, Figures], policy: JudgePolicy) -> dict[str, str]:
    bad: dict[str, list[str]] = {}
    for check, shown in RATES.items():
        rates = {
            node: float(figures[check].value)
            for node, figures in results.items()
            if check in figures and figures[check].value is not None
        }
        for node in slow_nodes(rates, policy):
            usual = median(rates.values())
            bad.setdefault(node, []).append(
                f"{shown.name}: {rates[node] / shown.scale:.3g} {shown.unit} is "
                f"{rates[node] / usual:.0%} of the median of {usual / shown.scale:.3g}"
            )
    return {node: "; ".join(reasons) for node, reasons in bad.items()}


def _skewed_nodes(results: Mapping[str, Figures], policy: JudgePolicy) -> dict[str, str]:
    skews = {
        node: float(figures["clock"].value)
        for node, figures in results.items()
        if "clock" in figures and figures["clock"].value is not None
    }
    # The clock of the batch host may be wrong, too; with two nodes the median does not show it.
    usual = median(skews.values()) if len(skews) > 2 else 0.0
    return {
        node: f"clock: {abs(skew - usual):.1f} s {'ahead' if skew > usual else 'behind'}"
        for node, skew in skews.items()
        if abs(skew - usual) > policy.clock_seconds
    }
