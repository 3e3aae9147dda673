"""Turns what was seen of an attempt into the value that decisions are made from. Pure."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from bigtrain.config.node_names import compress_names
from launcher.failures import (
    RankEnd,
    RankFailure,
    find_first_failure,
    is_about_lost_peer,
)
from launcher.supervisor.attempt import AttemptOutcome, node_of
from launcher.supervisor.interfaces import RunProgress
from launcher.supervisor.node_blame import blame_lost_nodes
from launcher.supervisor.rank_starts import NodeRanks
from launcher.supervisor.stops import Stop
from launcher.supervisor.values import AttemptEnd, EndKind

BAD_INPUT_CODE = 2
_KILLED = (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGKILL, 128 + signal.SIGTERM)
"""Exit codes of a rank that was killed; the positive ones are those of a container's shell."""


@dataclass(frozen=True, slots=True)
class HangSummary:
    """What the stacks of a run that hung show."""

    message: str
    blamed: tuple[int, ...]
    """The ranks that did not join the collective in which the others wait."""


@dataclass(frozen=True, slots=True)
class _Cause:
    kind: EndKind
    message: str
    rank: int | None = None
    nodes: tuple[str, ...] = ()


def build_attempt_end(
    outcome: AttemptOutcome,
    placed: Sequence[NodeRanks],
    *,
    before: RunProgress,
    after: RunProgress,
    stop: Stop | None,
    hang: HangSummary | None = None,
    has_begun: bool = False,
) -> AttemptEnd:
    """Builds the end of an attempt.

    An attempt that was asked to stop counts as stopped even if a rank failed or was lost meanwhile:
    the user or the scheduler wants the nodes, so there is nothing to restart. Bad input is an
    exception, because the next job would fail in the same way.

    Args:
        outcome: What the supervisor saw.
        placed: Where the ranks were.
        before: How far the run was when the attempt was started.
        after: How far it is now.
        stop: The request to stop, if there was one.
        hang: For a run that hung, what the stacks show.
        has_begun: Whether an earlier attempt of this job began. All its input could be used then,
            so what cannot be used now is a fault of the node.
    """
    first = find_first_failure(list(outcome.ends.values()))
    begun = after.attempt is not None and after.attempt != before.attempt
    cause = _find_cause(outcome, placed, first, after, hang, may_be_input=not (begun or has_begun))
    started_at = after.attempt_step if begun else before.saved_step
    last_step = max(started_at, outcome.last_step)
    if begun:
        last_step = max(last_step, after.step, after.saved_step)
    if stop is not None and cause.kind not in (EndKind.FINISHED, EndKind.BAD_INPUT):
        message = f"stopped by {stop.name}"
        if cause.kind is not EndKind.STOPPED:
            message += f", but not all ranks could save: {cause.message}"
        cause = _Cause(EndKind.STOPPED, message)
    divergence = None
    if cause.kind is EndKind.DIVERGED and cause.rank is not None:
        report = outcome.ends[cause.rank].report
        divergence = report.divergence if report else None
    return AttemptEnd(
        kind=cause.kind,
        started_at_step=started_at,
        last_step=last_step,
        saved_step=after.saved_step,
        message=cause.message,
        stop_cause=stop.cause if stop and cause.kind is EndKind.STOPPED else None,
        rank=cause.rank,
        nodes=cause.nodes,
        divergence=divergence,
    )


def may_be_ended_by_scheduler(outcome: AttemptOutcome) -> bool:
    """Whether nodes were lost or ranks were killed, as at the end of a job, by none of us."""
    codes = {end.code for end in outcome.ends.values() if not end.signalled}
    return bool(outcome.lost) or not codes.isdisjoint(_KILLED)


def describe_failure(outcome: AttemptOutcome, placed: Sequence[NodeRanks]) -> list[str]:
    """Lines for the log about the rank that failed first: where, why, and its traceback's end."""
    first = find_first_failure(list(outcome.ends.values()))
    if first is None:
        return []
    end = outcome.ends[first.rank]
    where = node_of(placed, first.rank)
    lines = [f"rank {first.rank} on {where} failed first: {first.message}"]
    if first.log is not None:
        lines.append(f"  its log: {first.log}")
    if end.report is not None and end.report.traceback:
        lines += [f"  | {line}" for line in end.report.traceback.rstrip().splitlines()[-12:]]
    return lines


def _find_cause(
    outcome: AttemptOutcome,
    placed: Sequence[NodeRanks],
    first: RankFailure | None,
    after: RunProgress,
    hang: HangSummary | None,
    *,
    may_be_input: bool,
) -> _Cause:
    if hang is not None:
        return _blame_hang(hang, placed)
    if outcome.lost and _is_cause(outcome, placed, first):
        used = [node.node for node in placed]
        nodes = tuple(node for node in used if node in outcome.lost)
        reasons = {lost.message for lost in outcome.lost.values()}
        message = f"{compress_names(nodes)} lost: {'; '.join(sorted(reasons))}"
        return _Cause(EndKind.NODE_LOST, message, nodes=blame_lost_nodes(nodes, used))
    if first is not None:
        end = outcome.ends[first.rank]
        return _blame_rank(end, first, placed, may_be_input=may_be_input)
    if outcome.start_failed is not None:
        node, message = outcome.start_failed
        return _Cause(EndKind.RANK_FAILED, f"ranks did not start: {message}", nodes=(node,))
    if any(end.code for end in outcome.ends.values()):
        killed = min(rank for rank, end in outcome.ends.items() if end.code)
        return _Cause(EndKind.STOPPED, f"rank {killed} was killed before it had saved")
    if after.state == "finished":
        return _Cause(EndKind.FINISHED, "")
    return _Cause(EndKind.STOPPED, "all ranks saved and stopped")


def _is_cause(
    outcome: AttemptOutcome, placed: Sequence[NodeRanks], first: RankFailure | None
) -> bool:
    """Whether the loss of nodes explains the attempt's end: ranks elsewhere only lost their peer.

    A rank of another node that failed with an error of its own, before the loss, is the cause.
    """
    if first is None or node_of(placed, first.rank) in outcome.lost:
        return True
    end = outcome.ends[first.rank]
    lost_at = min(lost.time for lost in outcome.lost.values())
    return is_about_lost_peer(end) or end.failure_time > lost_at


def _blame_rank(
    end: RankEnd, first: RankFailure, placed: Sequence[NodeRanks], *, may_be_input: bool
) -> _Cause:
    node = node_of(placed, first.rank)
    nodes = () if node is None else (node,)
    if end.report is not None and end.report.divergence is not None:
        return _Cause(EndKind.DIVERGED, first.message, first.rank)
    if first.exit_code == BAD_INPUT_CODE and may_be_input:
        return _Cause(EndKind.BAD_INPUT, first.message, first.rank)
    return _Cause(EndKind.RANK_FAILED, first.message, first.rank, nodes)


def _blame_hang(hang: HangSummary, placed: Sequence[NodeRanks]) -> _Cause:
    # Of several ranks that did not join, none is known to be the cause.
    rank = hang.blamed[0] if len(hang.blamed) == 1 else None
    node = None if rank is None else node_of(placed, rank)
    return _Cause(EndKind.HUNG, hang.message, rank, () if node is None else (node,))
