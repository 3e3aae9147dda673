"""Rows of the table of decisions: attempts, their circumstances, and what is decided."""

from dataclasses import dataclass, replace
from typing import Any

from bigtrain.config.rewind_plan import RewindPlan
from launcher.supervisor.values import (
    Action,
    AttemptEnd,
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
STEPS = RewindPlan(first_skipped=120, last_skipped=129, checkpoint_step=100)
GUARD = "step 129: 10 updates in a row were skipped"


def end_of(kind: EndKind, *, step: int = 41, saved: int = 0, **fields: Any) -> AttemptEnd:
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
    return end_of(EndKind.RANK_FAILED, message=message, nodes=(node,), rank=rank, **more)


def hung(message: str = "no step for 120 s", *, node: str = "n2", **more: Any) -> AttemptEnd:
    return end_of(EndKind.HUNG, message=message, nodes=(node,), **more)


def lost(*nodes: str, **more: Any) -> AttemptEnd:
    return end_of(EndKind.NODE_LOST, nodes=nodes, **more)


def bad(*nodes: str, **more: Any) -> AttemptEnd:
    return end_of(EndKind.BAD_NODES, step=0, nodes=nodes, **more)


def no_files(**more: Any) -> AttemptEnd:
    return end_of(EndKind.FILES_UNAVAILABLE, message="/runs/a: Stale file handle", **more)


def stopped(cause: StopCause, **more: Any) -> AttemptEnd:
    return end_of(EndKind.STOPPED, stop_cause=cause, **more)


def diverged(**more: Any) -> AttemptEnd:
    fields = {"message": GUARD, "divergence": STEPS, "step": 129, "saved": 100, **more}
    return end_of(EndKind.DIVERGED, **fields)


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
    delay: float | None = None
