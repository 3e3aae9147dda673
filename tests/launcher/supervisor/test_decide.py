"""What happens after an attempt: each row of the table is a rule in one sentence.

The rows for ranks that fail or hang are in `error_decisions`.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest

from launcher.supervisor.decide import decide
from launcher.supervisor.values import Action, Decision, EndKind, Policy, StopCause
from tests.launcher.supervisor.decision_rows import (
    ELASTIC,
    FOUR_NODES,
    GUARD,
    NO_QUEUE,
    NODES,
    ONE_NODE,
    ONE_SPARE,
    PREEMPTED,
    TIME_LIMIT,
    USER,
    Row,
    bad,
    diverged,
    end_of,
    failed,
    lost,
    stopped,
)
from tests.launcher.supervisor.error_decisions import DELAYS, ERRORS, FILES, SUSPECTS

ENDS = [
    Row("a finished run ends the job", end_of(EndKind.FINISHED), Action.END, says="step 41"),
    Row(
        "a finished run ends the job whatever failed before",
        end_of(EndKind.FINISHED),
        Action.END,
        history=(failed(), failed(), failed()),
    ),
    Row(
        "a stop that the user asked for is not requeued",
        stopped(USER, saved=41),
        Action.END,
        says="saved at step 41",
    ),
    Row("a stop of unknown cause is not requeued", end_of(EndKind.STOPPED), Action.END),
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
        "time limits that leave too little time to save hold the run",
        stopped(TIME_LIMIT, started=100, step=140, saved=100),
        Action.HOLD,
        history=(stopped(TIME_LIMIT, started=100, step=141, saved=100),) * 2,
        says="raise cluster.warning_seconds",
        exit_code=1,
    ),
    Row(
        "failures and preemptions between time limits without a new checkpoint change nothing",
        stopped(TIME_LIMIT, saved=0),
        Action.HOLD,
        history=(
            stopped(TIME_LIMIT),
            failed(),
            stopped(PREEMPTED),
            stopped(TIME_LIMIT, step=0),
        ),
        says="the time limit ended 3 attempts in a row before they had saved",
        exit_code=1,
    ),
    Row(
        "a new checkpoint between time limits begins a new row",
        stopped(TIME_LIMIT, started=10, step=20, saved=10),
        Action.REQUEUE,
        history=(stopped(TIME_LIMIT), stopped(TIME_LIMIT), failed(saved=10)),
    ),
    Row(
        "time limits are requeued without end while checkpoints are saved",
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
        "requeues by the user before the first step do not hold the run",
        stopped(StopCause.REQUEUE, step=0),
        Action.REQUEUE,
        history=(stopped(StopCause.REQUEUE, step=0),) * 5,
        says="stopped by the user's request to requeue",
    ),
    Row(
        "bad input fails with exit code 2",
        end_of(EndKind.BAD_INPUT, message="data.corpus=x: there is no such folder"),
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

TABLE = [*ENDS, *DIVERGENCES, *NODES_LOST, *ERRORS, *SUSPECTS, *DELAYS, *FILES]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.rule)
def test_the_decision_follows_the_rule(row: Row) -> None:
    decision = decide(row.end, row.history, row.resources, row.policy)
    assert decision.action is row.action, decision
    assert row.says in decision.reason
    assert (decision.excluded, decision.exit_code) == (row.excluded, row.exit_code)
    if row.delay is not None:
        assert decision.delay_seconds == row.delay
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
    lambda decision: decision.delay_seconds == 0 or decision.action is Action.RESTART,
    lambda decision: not set(decision.nodes) & set(decision.excluded),
    lambda decision: (decision.action is Action.REWIND) == (decision.rewind is not None),
    lambda decision: (decision.action in (Action.HOLD, Action.FAIL)) == (decision.exit_code > 0),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.rule)
def test_every_decision_is_complete(row: Row) -> None:
    decision = decide(row.end, row.history, row.resources, row.policy)
    assert all(holds(decision) for holds in INVARIANTS), decision


def test_the_table_states_each_rule_once() -> None:
    assert len({row.rule for row in TABLE}) == len(TABLE) >= 40
