"""Which nodes must not be used: each row of the table is a rule in one sentence."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from launcher.preflight.judge import Figure, JudgePolicy, judge_nodes

Nodes = dict[str, dict[str, Figure]]
TFLOPS, GB = 1e12, 1e9
VERSIONS = {"bigtrain": "0.12", "torch": "2.9.1"}


def _nodes(count: int = 4, **changes: Mapping[str, Figure]) -> Nodes:
    """Good nodes n1, n2, …, with the changes by node."""
    good = {
        "clock": Figure(0.1),
        "versions": Figure(VERSIONS),
        "config": Figure("aaaa"),
        "folders": Figure({"/runs": "9 GiB"}),
        "product": Figure(600 * TFLOPS),
        "all_reduce": Figure(400 * GB),
        "pair_all_reduce": Figure(40 * GB),
    }
    return {
        f"n{number}": {**good, **changes.get(f"n{number}", {})} for number in range(1, count + 1)
    }


STALE = Figure(problem="/runs is not writable: Stale file handle", is_temporary=True)
FULL = Figure(problem="/runs has 1 GiB free")
OLD = {"versions": Figure({**VERSIONS, "torch": "2.8.0"})}


@dataclass(frozen=True)
class Row:
    """A rule, the figures of the nodes, and the verdict."""

    rule: str
    nodes: Nodes
    bad: dict[str, str] = field(default_factory=dict)
    """Bad nodes, with a part of the reason."""
    refusal: str = ""
    """A part of the refusal."""


TABLE = [
    Row("equal nodes are good", _nodes()),
    Row("a single node is good", _nodes(1)),
    Row(
        "a file system that fails for all nodes is held against none, and refuses nothing",
        _nodes(**{f"n{number}": {"folders": STALE} for number in range(1, 5)}),
    ),
    Row(
        "a file system that fails for one node is a fault of the node",
        _nodes(8, n2={"folders": STALE}),
        {"n2": "Stale file handle"},
    ),
    Row("a node without figures is not judged", {"n1": {}, "n2": {}}),
    Row(
        "a node with a problem is bad, with its reason",
        _nodes(n2={"gpus": Figure(problem="7 GPUs of 8")}),
        {"n2": "gpus: 7 GPUs of 8"},
    ),
    Row(
        "all problems of a node are told",
        _nodes(n2={"gpus": Figure(problem="A"), "config": Figure(problem="B")}),
        {"n2": "config: B; gpus: A"},
    ),
    Row(
        "a single node with a problem is bad",
        _nodes(1, n1={"gpus": Figure(problem="7 GPUs of 8")}),
        {"n1": "7 GPUs of 8"},
    ),
    Row(
        "a node below 0.7 of the median matrix product is bad",
        _nodes(n3={"product": Figure(410 * TFLOPS)}),
        {"n3": "matrix product: 410 TFLOP/s is 68% of the median of 600"},
    ),
    Row("a node at 0.72 of the median is good", _nodes(n3={"product": Figure(432 * TFLOPS)})),
    Row(
        "a node with a slow all-reduce inside is bad",
        _nodes(n3={"all_reduce": Figure(100 * GB)}),
        {"n3": "all-reduce inside the node: 100 GB/s is 25% of the median of 400"},
    ),
    Row(
        "a node with a slow all-reduce to others is bad",
        _nodes(n1={"pair_all_reduce": Figure(20 * GB)}),
        {"n1": "all-reduce with other nodes: 20 GB/s is 50%"},
    ),
    Row(
        "a node that is slow twice is named once with both reasons",
        _nodes(n1={"product": Figure(10 * TFLOPS), "all_reduce": Figure(10 * GB)}),
        {"n1": "2% of the median of 600; all-reduce inside the node"},
    ),
    Row(
        "a node with a problem does not lower the median of the others",
        _nodes(
            n1={"product": Figure(1 * TFLOPS), "gpus": Figure(problem="gone")},
            n2={"product": Figure(1 * TFLOPS), "gpus": Figure(problem="gone")},
            n3={"product": Figure(400 * TFLOPS)},
        ),
        {"n1": "gone", "n2": "gone"},
    ),
    Row(
        "of two nodes the slower one is bad if it is below 0.54 of the faster one",
        _nodes(2, n2={"product": Figure(300 * TFLOPS)}),
        {"n2": "67% of the median of 450"},
    ),
    Row(
        "a clock that is wrong by more than 5 s is bad",
        _nodes(n4={"clock": Figure(-7.5)}),
        {"n4": "clock: 7.6 s behind"},
    ),
    Row("a clock that is wrong by 4 s is good", _nodes(n4={"clock": Figure(4.0)})),
    Row(
        "if most clocks differ from the batch host's, the batch host's is wrong",
        _nodes(
            n1={"clock": Figure(0.0)},
            n2={"clock": Figure(60.0)},
            n3={"clock": Figure(60.2)},
            n4={"clock": Figure(60.1)},
        ),
        {"n1": "clock: 60.0 s behind"},
    ),
    Row(
        "with two nodes, the clock of the batch host counts",
        _nodes(2, n2={"clock": Figure(8.0)}),
        {"n2": "clock: 8.0 s ahead"},
    ),
    Row(
        "a node with other versions than most is bad",
        _nodes(n2=OLD),
        {"n2": "versions: other versions (torch 2.8.0 instead of 2.9.1) than n1 and most nodes"},
    ),
    Row(
        "two nodes with different versions: the job is refused",
        _nodes(2, n2=OLD),
        refusal="torch 2.9.1 instead of 2.8.0) than n2, and no majority shows which is right",
    ),
    Row("half of the nodes with other versions: the job is refused",
        _nodes(n2=OLD, n4=OLD), refusal="the nodes do not agree: n1 has other versions"),
    Row(
        "a node that reads another config is bad",
        _nodes(n2={"config": Figure("bbbb")}),
        {"n2": "config: a different config of the job than n1 and most nodes"},
    ),
    Row(
        "a node with a problem has no voice about the right versions",
        _nodes(3, n2=OLD, n3={**OLD, "gpus": Figure(problem="gone")}),
        {"n3": "gone"},
        refusal="no majority",
    ),
    Row(
        "one node of four cannot write its folders: it is bad",
        _nodes(n2={"folders": FULL}),
        {"n2": "folders: /runs has 1 GiB free"},
    ),
    Row(
        "most nodes cannot write their folders: the job is refused",
        _nodes(n1={"folders": FULL}, n2={"folders": FULL}, n3={"folders": FULL}),
        refusal="n1, n2, n3: folders: /runs has 1 GiB free",
    ),
    Row(
        "half of the nodes cannot write their folders: they are bad",
        _nodes(n1={"folders": FULL}, n2={"folders": FULL}),
        {"n1": "/runs", "n2": "/runs"},
    ),
    Row(
        "most nodes, but not all, have broken GPUs: they are bad",
        _nodes(3, n1={"gpus": Figure(problem="gone")}, n2={"gpus": Figure(problem="gone")}),
        {"n1": "gone", "n2": "gone"},
    ),
    Row(
        "all nodes fail the same check: the job is refused, since no node is to blame",
        _nodes(2, n1={"gpus": Figure(problem="gone")}, n2={"gpus": Figure(problem="gone")}),
        refusal="all nodes: gpus: gone",
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.rule)
def test_the_verdict_follows_the_rule(row: Row) -> None:
    verdict = judge_nodes(row.nodes, JudgePolicy())
    assert list(verdict.bad) == list(row.bad), verdict
    assert all(part in verdict.bad[node] for node, part in row.bad.items()), verdict
    assert bool(verdict.refusal) == bool(row.refusal)
    assert row.refusal in verdict.refusal
    assert not any("\n" in text for text in (verdict.refusal, *verdict.bad.values()))


def test_the_limits_can_be_chosen() -> None:
    nodes = _nodes(n2={"product": Figure(500 * TFLOPS), "clock": Figure(1.0)})
    assert judge_nodes(nodes, JudgePolicy(slow_ratio=0.9)).bad.keys() == {"n2"}
    assert judge_nodes(nodes, JudgePolicy(clock_seconds=0.5)).bad.keys() == {"n2"}
