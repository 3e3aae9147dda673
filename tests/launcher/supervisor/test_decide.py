"""What happens after an attempt: each row of the table is a rule in one sentence."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from launcher.supervisor.decide import decide
from launcher.supervisor.values import (
    Action,
    AttemptEnd,
    Decision,
    Divergence,
    EndKind,
    Policy,
    Resources,
    StopCause,
)

NODES = ("n1", "n2", "n3", "n4")
FOUR_NODES = Resources(
    nodes=NODES, ranks_per_node=2, full_world_size=8, world_sizes=(8, 4, 2), can_requeue=True
)
"""All four nodes have ranks."""
NO_QUEUE = replace(FOUR_NODES, can_requeue=False)
ONE_SPARE = replace(FOUR_NODES, nodes=(*NODES, "n5"))
SPARE_NO_QUEUE = replace(ONE_SPARE, can_requeue=False)
ONE_NODE = replace(NO_QUEUE, nodes=("n1",), full_world_size=2, world_sizes=(2,))
DEFAULT = Policy()
ELASTIC = Policy(elastic=True)
STEPS = Divergence(first_skipped=120, last_skipped=129, checkpoint_step=100)
GUARD = "step 129: 10 updates in a row were skipped"


def _end(kind: EndKind, *, step: int = 41, saved: int = 0, **fields: Any) -> AttemptEnd:
    return AttemptEnd(
        kind,
        started_at_step=fields.pop("started", 0),
        last_step=step,
        saved_step=saved,
        **fields,
    )


def failed(
    message: str = "ValueError: x", *, node: str = "n2", rank: int = 2, **more: Any
) -> AttemptEnd:
    return _end(EndKind.RANK_FAILED, message=message, nodes=(node,), rank=rank, **more)


def hung(message: str = "no step for 120 s", *, node: str = "n2", **more: Any) -> AttemptEnd:
    return _end(EndKind.HUNG, message=message, nodes=(node,), **more)


def lost(*nodes: str, **more: Any) -> AttemptEnd:
    return _end(EndKind.NODE_LOST, nodes=nodes, **more)


def bad(*nodes: str, **more: Any) -> AttemptEnd:
    return _end(EndKind.BAD_NODES, step=0, nodes=nodes, **more)


def stopped(cause: StopCause, **more: Any) -> AttemptEnd:
    return _end(EndKind.STOPPED, stop_cause=cause, **more)


def diverged(**more: Any) -> AttemptEnd:
    fields = {"message": GUARD, "divergence": STEPS, "step": 129, "saved": 100, **more}
    return _end(EndKind.DIVERGED, **fields)


TIME_LIMIT, PREEMPTED, USER = StopCause.TIME_LIMIT, StopCause.PREEMPTED, StopCause.USER
ECC = "RuntimeError: CUDA error: uncorrectable ECC error encountered"
XID = "NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus."
OUT_OF_MEMORY = "CUDA error: out of memory"


@dataclass(frozen=True)
class Row:
    """A rule, an attempt's end in its circumstances, and what is decided."""

    rule: str
    end: AttemptEnd
    action: Action
    history: tuple[AttemptEnd, ...] = ()
    resources: Resources = FOUR_NODES
    policy: Policy = DEFAULT
    says: str = ""
    """A part of the reason."""
    nodes: tuple[str, ...] | None = None
    world_size: int | None = None
    excluded: tuple[str, ...] = ()
    exit_code: int = 0


ENDS = [
    Row("a finished run ends the job", _end(EndKind.FINISHED), Action.END, says="step 41"),
    Row(
        "a finished run ends the job whatever failed before",
        _end(EndKind.FINISHED),
        Action.END,
        history=(failed(), failed(), failed()),
    ),
    Row(
        "a stop that the user asked for is not requeued",
        stopped(USER, saved=41),
        Action.END,
        says="saved at step 41",
    ),
    Row("a stop of unknown cause is not requeued", _end(EndKind.STOPPED), Action.END),
    Row(
        "a stop before the time limit is requeued",
        stopped(TIME_LIMIT, saved=41),
        Action.REQUEUE,
        says="stopped by the time limit; saved at step 41",
    ),
    Row("a preempted job is requeued", stopped(PREEMPTED, saved=41), Action.REQUEUE),
    Row(
        "a stop before the time limit without requeue ends with the command that continues",
        stopped(TIME_LIMIT, saved=41),
        Action.END,
        resources=NO_QUEUE,
        says="bigtrain requeue",
    ),
    Row(
        "a preempted job without requeue ends with the command that continues",
        stopped(PREEMPTED, saved=41),
        Action.END,
        resources=NO_QUEUE,
        says="bigtrain requeue",
    ),
    Row(
        "a time limit that is too short for one step holds the run",
        stopped(TIME_LIMIT, step=0),
        Action.HOLD,
        history=(stopped(TIME_LIMIT, step=0), stopped(TIME_LIMIT, step=0)),
        says="raise cluster.time",
        exit_code=1,
    ),
    Row(
        "two time limits before the first step do not hold the run",
        stopped(TIME_LIMIT, step=0),
        Action.REQUEUE,
        history=(stopped(TIME_LIMIT, step=0),),
    ),
    Row(
        "time limits are requeued without end while steps are taken",
        stopped(TIME_LIMIT, started=82, step=123, saved=123),
        Action.REQUEUE,
        history=(stopped(TIME_LIMIT, saved=41), stopped(TIME_LIMIT, started=41, step=82, saved=82)),
    ),
    Row(
        "preemptions before the first step do not hold the run",
        stopped(PREEMPTED, step=0),
        Action.REQUEUE,
        history=(stopped(PREEMPTED, step=0),) * 5,
    ),
    Row(
        "bad input fails with exit code 2",
        _end(EndKind.BAD_INPUT, message="data.corpus=x: there is no such folder"),
        Action.FAIL,
        says="data.corpus=x",
        exit_code=2,
    ),
]

DIVERGENCES = [
    Row(
        "a diverged run is rewound if the run allows it",
        diverged(),
        Action.REWIND,
        policy=Policy(rewinds=2),
        says="rewind 1 of 2: back to step 100, without the samples of steps 120 to 129",
        nodes=NODES,
        world_size=8,
    ),
    Row(
        "the second rewind is told with its number",
        diverged(),
        Action.REWIND,
        history=(diverged(rewound=True),),
        policy=Policy(rewinds=2),
        says="rewind 2 of 2",
    ),
    Row(
        "a diverged run fails with the guard's message when all rewinds are made",
        diverged(),
        Action.FAIL,
        history=(diverged(rewound=True), failed(saved=50), diverged(rewound=True)),
        policy=Policy(rewinds=2),
        says=f"2 rewinds made; guard.rewind=2): {GUARD}",
        exit_code=1,
    ),
    Row(
        "a diverged run fails if the run allows no rewind",
        diverged(),
        Action.FAIL,
        says=GUARD,
        exit_code=1,
    ),
    Row(
        "a diverged run fails if the samples to skip are unknown",
        diverged(divergence=None),
        Action.FAIL,
        policy=Policy(rewinds=2),
        exit_code=1,
    ),
    Row(
        "rewinds have a limit of their own and do not hold the run",
        diverged(started=100),
        Action.REWIND,
        history=(diverged(started=100, rewound=True),) * 4,
        policy=Policy(rewinds=5),
        says="rewind 5 of 5",
    ),
    Row(
        "failures around a rewind still count as failures in a row",
        failed("C", step=105, started=100, saved=100),
        Action.HOLD,
        history=(
            failed("A", step=103, started=100, saved=100),
            diverged(started=100, rewound=True),
            failed("B", step=104, started=100, saved=100),
        ),
        policy=Policy(rewinds=5),
        exit_code=1,
    ),
    Row(
        "a rewound attempt does not count as a failure in a row",
        failed("B", step=104, started=100, saved=100),
        Action.RESTART,
        history=(
            failed("A", step=103, started=100, saved=100),
            diverged(started=100, rewound=True),
        ),
        policy=Policy(rewinds=5),
    ),
    Row(
        "a diverged run without enough nodes is requeued, to be rewound there",
        diverged(),
        Action.REQUEUE,
        resources=replace(FOUR_NODES, nodes=NODES[:3]),
        policy=Policy(rewinds=2),
    ),
]

NODES_LOST = [
    Row(
        "a spare replaces a lost node",
        lost("n2"),
        Action.RESTART,
        resources=ONE_SPARE,
        nodes=("n1", "n3", "n4", "n5"),
        world_size=8,
        excluded=("n2",),
        says="n2 no longer answers",
    ),
    Row(
        "a spare replaces a lost node even in an elastic run",
        lost("n4"),
        Action.RESTART,
        resources=ONE_SPARE,
        policy=ELASTIC,
        nodes=("n1", "n2", "n3", "n5"),
        world_size=8,
        excluded=("n4",),
    ),
    Row(
        "an elastic run continues on the largest allowed number of ranks",
        lost("n2"),
        Action.RESTART,
        policy=ELASTIC,
        nodes=("n1", "n3"),
        world_size=4,
        excluded=("n2",),
        says="4 of 8 ranks",
    ),
    Row(
        "a lost spare leaves the ranks where they are",
        lost("n5"),
        Action.RESTART,
        resources=ONE_SPARE,
        nodes=NODES,
        world_size=8,
        excluded=("n5",),
    ),
    Row(
        "without a spare the job is requeued without the lost node",
        lost("n2"),
        Action.REQUEUE,
        excluded=("n2",),
        says="queued again without n2",
    ),
    Row(
        "two nodes lost with one spare: the job is requeued without both",
        lost("n2", "n3"),
        Action.REQUEUE,
        resources=ONE_SPARE,
        excluded=("n2", "n3"),
    ),
    Row(
        "without a spare and without requeue the run fails",
        lost("n2"),
        Action.FAIL,
        resources=NO_QUEUE,
        excluded=("n2",),
        says="bigtrain requeue",
        exit_code=1,
    ),
    Row(
        "an elastic run without any node left fails where jobs are not queued again",
        lost("n1"),
        Action.FAIL,
        resources=ONE_NODE,
        policy=ELASTIC,
        excluded=("n1",),
        exit_code=1,
    ),
    Row(
        "the same lost node twice at the same step is not an error of the program",
        lost("n2"),
        Action.RESTART,
        history=(lost("n3"),),
        resources=ONE_SPARE,
        excluded=("n2",),
    ),
    Row(
        "a third lost node in a row without a new checkpoint holds the run",
        lost("n2"),
        Action.HOLD,
        history=(lost("n3"), lost("n4")),
        resources=ONE_SPARE,
        excluded=("n2",),
        exit_code=1,
    ),
    Row(
        "a node that failed a check is replaced by a spare",
        bad("n1", message="matrix product at 0.4 of the median"),
        Action.RESTART,
        resources=ONE_SPARE,
        nodes=("n2", "n3", "n4", "n5"),
        excluded=("n1",),
        says="n1 failed a check",
    ),
    Row(
        "a node that failed a check, without a spare: the job is requeued without it",
        bad("n1"),
        Action.REQUEUE,
        excluded=("n1",),
    ),
    Row(
        "a node that failed a check, in an elastic run: the others continue",
        bad("n1"),
        Action.RESTART,
        policy=ELASTIC,
        nodes=("n2", "n3"),
        world_size=4,
        excluded=("n1",),
    ),
]

ERRORS = [
    Row(
        "a failed rank is restarted inside the allocation on the same nodes",
        failed("OSError: broken pipe", rank=3),
        Action.RESTART,
        nodes=NODES,
        world_size=8,
        says="rank 3 failed on n2 at step 41 (saved: 0): OSError: broken pipe",
    ),
    Row("a hung run is restarted", hung(), Action.RESTART, nodes=NODES, says="hung on n2"),
    Row(
        "a failed rank is restarted without requeue too",
        failed(),
        Action.RESTART,
        resources=NO_QUEUE,
        nodes=NODES,
    ),
    Row(
        "the same error at the same step twice fails",
        failed(),
        Action.FAIL,
        history=(failed(),),
        says="twice at step 41",
        exit_code=1,
    ),
    Row(
        "numbers, addresses, paths and times do not make an error different",
        failed("[10:31:02] 10.0.0.2:4711: read /a/b-3.tar at 0x7fa3: 17 bytes short"),
        Action.FAIL,
        history=(failed("[22:07:59] 10.0.0.9:5000: read /c.tar at 0x7fff: 170 bytes short"),),
        exit_code=1,
    ),
    Row(
        "the same error at the same step on another node fails",
        failed(node="n3", rank=5),
        Action.FAIL,
        history=(failed(node="n2", rank=3),),
        exit_code=1,
    ),
    Row(
        "the same error at another step is restarted", failed(step=44), Action.RESTART, (failed(),)
    ),
    Row("another error at the same step is restarted", failed("B"), Action.RESTART, (failed("A"),)),
    Row(
        "the same hang at the same step twice fails",
        hung("no step for 130 s"),
        Action.FAIL,
        history=(hung("no step for 121 s"),),
        exit_code=1,
    ),
    Row(
        "a hang after an error at the same step is restarted",
        hung("x"),
        Action.RESTART,
        history=(failed("x"),),
    ),
    Row(
        "the same error at the same step fails though a stop lies between",
        failed(),
        Action.FAIL,
        history=(failed(), stopped(TIME_LIMIT, step=20)),
        exit_code=1,
    ),
    Row(
        "a script that fails at once fails at its second start",
        failed("ImportError: no module named x", step=0),
        Action.FAIL,
        history=(failed("ImportError: no module named x", step=0),),
        exit_code=1,
    ),
    Row(
        "three different failures in a row without a new checkpoint hold the run",
        failed("C", node="n1"),
        Action.HOLD,
        history=(failed("A"), hung("B", node="n3")),
        says="3 attempts in a row failed before a new checkpoint",
        exit_code=1,
    ),
    Row(
        "failures of other kinds count: error, lost node, bad node",
        failed("A"),
        Action.HOLD,
        history=(lost("n8"), bad("n9")),
        exit_code=1,
    ),
    Row(
        "a new checkpoint begins the count anew",
        failed("C"),
        Action.RESTART,
        history=(failed("A"), failed("B", node="n1", saved=40)),
    ),
    Row(
        "a failed attempt that saved is restarted after many failures",
        failed("E", saved=40),
        Action.RESTART,
        history=(failed("A"), failed("B", node="n1"), failed("A", step=3), failed("D", node="n1")),
    ),
    Row(
        "a stop by the time limit without a new checkpoint does not begin the count anew",
        failed("C"),
        Action.HOLD,
        history=(failed("A"), stopped(TIME_LIMIT), failed("B", node="n1")),
        exit_code=1,
    ),
    Row(
        "a stop by the time limit does not count as a failure",
        failed("B"),
        Action.RESTART,
        history=(failed("A"), stopped(TIME_LIMIT), stopped(PREEMPTED)),
    ),
    Row(
        "a stop by the time limit with a new checkpoint begins the count anew",
        failed("C"),
        Action.RESTART,
        history=(failed("A"), failed("B", node="n1"), stopped(TIME_LIMIT, saved=30)),
    ),
    Row(
        "the limit of failures is the profile's",
        failed(),
        Action.HOLD,
        policy=Policy(restarts_without_progress=1),
        exit_code=1,
    ),
    Row(
        "a failed rank while a node is missing too: the job is requeued",
        failed(),
        Action.REQUEUE,
        resources=replace(FOUR_NODES, nodes=NODES[:3]),
    ),
    Row(
        "an elastic run returns to its full size when the nodes are there again",
        failed("B"),
        Action.RESTART,
        history=(lost("n2"),),
        policy=ELASTIC,
        nodes=NODES,
        world_size=8,
    ),
]

SUSPECTS = [
    Row(
        "a first hardware error is restarted on the same nodes",
        failed(ECC),
        Action.RESTART,
        resources=ONE_SPARE,
        nodes=NODES,
    ),
    Row(
        "a second hardware error on a node replaces it by a spare",
        failed(XID, step=60),
        Action.RESTART,
        history=(failed(ECC, saved=10),),
        resources=ONE_SPARE,
        nodes=("n1", "n3", "n4", "n5"),
        excluded=("n2",),
        says="without n2 (a second error that looks like failing hardware)",
    ),
    Row(
        "the same hardware error at the same step replaces the node before the run is given up",
        failed(ECC),
        Action.RESTART,
        history=(failed(ECC),),
        resources=ONE_SPARE,
        excluded=("n2",),
    ),
    Row(
        "the same hardware error at the same step on the new node too fails",
        failed(ECC, node="n5"),
        Action.FAIL,
        history=(failed(ECC), failed(ECC, saved=20)),
        resources=replace(FOUR_NODES, nodes=("n1", "n3", "n4", "n5")),
        exit_code=1,
    ),
    Row(
        "hardware errors on two nodes replace neither",
        failed(ECC, node="n3", step=60),
        Action.RESTART,
        history=(failed(ECC),),
        resources=ONE_SPARE,
        nodes=NODES,
    ),
    Row(
        "a second hardware error without a spare: the job is requeued without the node",
        failed(ECC, step=60),
        Action.REQUEUE,
        history=(failed(ECC),),
        excluded=("n2",),
    ),
    Row(
        "a second hardware error in an elastic run: it continues without the node",
        failed(ECC, step=60),
        Action.RESTART,
        history=(failed(ECC),),
        policy=ELASTIC,
        world_size=4,
        excluded=("n2",),
    ),
    Row(
        "a second hardware error on the only node there is: it is tried again",
        failed(ECC, node="n1", step=60),
        Action.RESTART,
        history=(failed(ECC, node="n1"),),
        resources=ONE_NODE,
        nodes=("n1",),
    ),
    Row(
        "running out of GPU memory twice does not look like failing hardware",
        failed(OUT_OF_MEMORY, step=60),
        Action.RESTART,
        history=(failed(OUT_OF_MEMORY),),
        resources=ONE_SPARE,
        nodes=NODES,
    ),
    Row(
        "a third different error on a node replaces it by a spare",
        failed("C"),
        Action.RESTART,
        history=(failed("A", saved=10), hung("B", saved=20)),
        resources=ONE_SPARE,
        nodes=("n1", "n3", "n4", "n5"),
        excluded=("n2",),
        says="(3 different errors)",
    ),
    Row(
        "a third error on a node that is no new error replaces nothing",
        failed("A", step=50),
        Action.RESTART,
        history=(failed("A", saved=10), failed("B", saved=20)),
        resources=SPARE_NO_QUEUE,
        nodes=NODES,
    ),
    Row(
        "a third different error on a node costs no rank and no wait in the queue",
        failed("C"),
        Action.RESTART,
        history=(failed("A", saved=10), failed("B", saved=20)),
        policy=ELASTIC,
        nodes=NODES,
        world_size=8,
    ),
    Row(
        "a suspect node is left even if the run is held",
        failed("C"),
        Action.HOLD,
        history=(failed("A"), failed("B")),
        resources=ONE_SPARE,
        excluded=("n2",),
        exit_code=1,
    ),
]
TABLE = [*ENDS, *DIVERGENCES, *NODES_LOST, *ERRORS, *SUSPECTS]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.rule)
def test_the_decision_follows_the_rule(row: Row) -> None:
    decision = decide(row.end, row.history, row.resources, row.policy)
    assert decision.action is row.action, decision
    assert row.says in decision.reason
    assert (decision.excluded, decision.exit_code) == (row.excluded, row.exit_code)
    if row.nodes is not None:
        assert decision.nodes == row.nodes
    if row.world_size is not None:
        assert decision.world_size == row.world_size


def _starts_ranks(decision: Decision) -> bool:
    return decision.action in (Action.RESTART, Action.REWIND)


INVARIANTS: list[Callable[[Decision], bool]] = [
    lambda decision: bool(decision.reason) and "\n" not in decision.reason,
    lambda decision: len(decision.reason) < 400,
    lambda decision: _starts_ranks(decision) == bool(decision.nodes) == bool(decision.world_size),
    lambda decision: not set(decision.nodes) & set(decision.excluded),
    lambda decision: (decision.action is Action.REWIND) == (decision.divergence is not None),
    lambda decision: (decision.action in (Action.HOLD, Action.FAIL)) == (decision.exit_code > 0),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.rule)
def test_every_decision_is_complete(row: Row) -> None:
    decision = decide(row.end, row.history, row.resources, row.policy)
    assert all(holds(decision) for holds in INVARIANTS), decision


def test_the_table_states_each_rule_once() -> None:
    assert len({row.rule for row in TABLE}) == len(TABLE) >= 40
