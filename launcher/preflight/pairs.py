"""Chooses the pairs of nodes whose all-reduce is measured. Pure.

A slow pair does not show which of its nodes is slow, so each of them is measured again with a node
that was good in another pair. A node that is slow or fails with every partner is bad.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

ROUNDS = 4
"""Rounds at most: one for all, one for the odd node, and two for the nodes of slow pairs."""
MAX_BAD_PAIRS = 2
"""Bad pairs after which a node is not measured again."""

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class PairResult:
    """The measured all-reduce of a pair of nodes."""

    rate: float | None
    """Bytes per second; None if it failed."""
    problem: str = ""
    """Why it failed, in one line."""


def plan_pairs(
    nodes: Sequence[str], results: Mapping[Pair, PairResult], *, ratio: float
) -> list[Pair]:
    """The pairs to measure next, at the same time; no node is in two of them.

    Args:
        nodes: All nodes.
        results: The pairs that were measured so far.
        ratio: Share of the median rate below which a pair is slow.

    Returns:
        Empty if every node is in a good pair, or more measurements would not help.
    """
    if len(nodes) == 3:
        # Any two pairs share a node, which may be the slow one; only all three pairs show it.
        return [pair for pair in combinations(nodes, 2) if pair not in results][:1]
    good = good_nodes(results, ratio=ratio)
    waiting = [
        node for node in nodes if node not in good and _count_pairs(node, results) < MAX_BAD_PAIRS
    ]
    pairs: list[Pair] = []
    used: set[str] = set()
    for node in waiting:
        if node in used:
            continue
        partners = [other for other in nodes if other in good]
        partners += [other for other in waiting if other != node]
        for other in partners:
            if other not in used and not {(node, other), (other, node)} & results.keys():
                pairs.append((node, other))
                used |= {node, other}
                break
    return pairs


def good_nodes(results: Mapping[Pair, PairResult], *, ratio: float) -> set[str]:
    """The nodes that are in a pair that is not slow, compared with the median of all best rates.

    The median of all pairs is not used, since of three nodes a slow one is in most of the pairs.
    """
    nodes = {node for pair in results for node in pair}
    rates = [best.rate for best in best_results(nodes, results).values() if best.rate is not None]
    if not rates:
        return set()
    limit = ratio * median(rates)
    return {
        node
        for pair, result in results.items()
        if result.rate is not None and result.rate >= limit
        for node in pair
    }


def best_results(
    nodes: Collection[str], results: Mapping[Pair, PairResult]
) -> dict[str, PairResult]:
    """The best result of each node; of those that failed with every partner, the newest failure."""
    best: dict[str, PairResult] = {}
    for pair, result in results.items():
        for node in pair:
            before = best.get(node)
            if before is None or (result.rate or 0.0) >= (before.rate or 0.0):
                best[node] = result
    return {node: best[node] for node in nodes if node in best}


def _count_pairs(node: str, results: Mapping[Pair, PairResult]) -> int:
    """The number of measured pairs that a node is in; all are bad if the node is not good."""
    return sum(node in pair for pair in results)
