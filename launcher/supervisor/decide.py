"""Decides what the supervisor does after an attempt. Pure: one function, tested as a table.

The rules, in this order; the first that fits decides. "Failed" means every end but `FINISHED` and
`STOPPED`.

1. Finished, or stopped by the user: `END`.
2. Stopped by the time limit or a preemption: `REQUEUE`, or `END` where jobs are not queued again.
   But if the time limit came several times in a row without a new checkpoint, `HOLD`: the limit, or
   the time to save before it, is too short, and the queue would repeat it forever.
3. Bad input: `FAIL` with exit code 2.
4. Diverged: `REWIND` while rewinds are left and the samples to skip are known, else `FAIL`. Rewinds
   have a limit of their own, so they do not count in rule 7.
5. The run continues without excluded nodes. These are the lost nodes, those that failed a check,
   and a *suspect* node. A node is suspect if it is blamed
   - by a second error that looks like failing hardware, if there is another node to use or the job
     can be queued again, or
   - by three different errors, if the other nodes have room for as many ranks.
6. The same error at the same step twice, with no node to exclude: `FAIL`; a third try would end in
   the same way. (Suspect hardware comes first, because one more try on another node shows whether
   the node or the program is to blame.)
7. `Policy.restarts_without_progress` failed attempts in a row without a new checkpoint: `HOLD`.
   Stops do not count, and do not interrupt the row unless they saved a later step.
8. The supervisor could not use the run folder: `REQUEUE`, because the batch host of the next job
   may be another, or `FAIL` where jobs are not queued again.
9. Enough nodes are left, for all ranks or for an elastic run: `RESTART` inside the allocation,
   after a delay that grows with the failures of rule 7.
10. Otherwise `REQUEUE` without the excluded nodes, or `FAIL` where jobs are not queued again.
"""

from collections.abc import Sequence
from dataclasses import replace

from launcher.supervisor.describe import count_of, describe_end, name_nodes
from launcher.supervisor.error_messages import looks_like_hardware, normalise_message
from launcher.supervisor.placement import place_nodes
from launcher.supervisor.values import (
    Action,
    AttemptEnd,
    Decision,
    EndKind,
    Policy,
    Resources,
    StopCause,
)

SUSPECT_ERRORS = 3
"""Different errors that blame one node, from which on the node is suspect."""

_ERRORS = (EndKind.RANK_FAILED, EndKind.HUNG)


def decide(
    end: AttemptEnd, history: Sequence[AttemptEnd], resources: Resources, policy: Policy
) -> Decision:
    """What to do after an attempt, and why.

    Args:
        end: How the attempt ended.
        history: The earlier ends since a person last started the run, oldest first; a run that a
            person starts again after a hold or a failure begins with an empty history. They may be
            of several jobs.
        resources: What ranks can be started on now.
        policy: The keys that decide about restarts.
    """
    match end.kind:
        case EndKind.FINISHED:
            return Decision(Action.END, f"finished at step {end.last_step}")
        case EndKind.STOPPED:
            return _after_stop(end, history, resources, policy)
        case EndKind.BAD_INPUT:
            return Decision(Action.FAIL, end.message or "a rank had bad input", exit_code=2)
        case EndKind.DIVERGED:
            return _after_divergence(end, history, resources, policy)
        case _:
            return _after_failure(end, history, resources, policy)


def _after_stop(
    end: AttemptEnd, history: Sequence[AttemptEnd], resources: Resources, policy: Policy
) -> Decision:
    saved = f"saved at step {end.saved_step}" if end.saved_step else "nothing was trained yet"
    if end.stop_cause in (StopCause.USER, None):
        return Decision(Action.END, f"stopped on request; {saved}")
    reason = f"stopped by the {end.stop_cause}; {saved}"
    if not resources.can_requeue:
        return Decision(Action.END, f"{reason}; `bigtrain requeue RUN` continues the run")
    limits = _limits_without_progress(end, history)
    if len(limits) >= policy.restarts_without_progress:
        return Decision(Action.HOLD, _render_limits(limits), exit_code=1)
    return Decision(Action.REQUEUE, reason)


def _limits_without_progress(end: AttemptEnd, history: Sequence[AttemptEnd]) -> list[AttemptEnd]:
    """The attempts that the time limit ended since the newest checkpoint was saved."""
    found = []
    for each in (end, *reversed(history)):
        if each.made_progress:
            break
        if each.stop_cause is StopCause.TIME_LIMIT:
            found.append(each)
    return found


def _render_limits(limits: Sequence[AttemptEnd]) -> str:
    ended = f"the time limit ended {count_of(len(limits), 'attempt')} in a row"
    if any(each.last_step > each.started_at_step for each in limits):
        return (
            f"{ended} before they had saved a checkpoint; raise cluster.warning_seconds, the "
            "time for saving before the limit, or save more often (checkpoint.every), then launch "
            "the run again"
        )
    return f"{ended} before their first step; raise cluster.time, then launch the run again"


def _after_divergence(
    end: AttemptEnd, history: Sequence[AttemptEnd], resources: Resources, policy: Policy
) -> Decision:
    used = sum(each.rewound for each in history)
    plan, placement = end.divergence, place_nodes(resources, policy)
    if plan is None or used >= policy.rewinds:
        spent = f" ({count_of(used, 'rewind')} made; guard.rewind={policy.rewinds})" if used else ""
        return Decision(Action.FAIL, f"the loss diverged{spent}: {end.message}", exit_code=1)
    if placement is None:
        return _requeue_or_fail(end, (), resources)
    nodes, world_size = placement
    return Decision(
        Action.REWIND,
        f"the loss diverged; rewind {used + 1} of {policy.rewinds}: back to step "
        f"{plan.checkpoint_step}, without the samples of steps {plan.first_skipped} to "
        f"{plan.last_skipped}",
        nodes=nodes,
        world_size=world_size,
        rewind=plan,
    )


def _after_failure(
    end: AttemptEnd, history: Sequence[AttemptEnd], resources: Resources, policy: Policy
) -> Decision:
    excluded, why = _nodes_to_exclude(end, history, resources, policy)
    if not excluded and _is_repeated(end, history):
        return Decision(
            Action.FAIL,
            f"the same error happened twice at step {end.last_step}, so a restart would not help: "
            f"{describe_end(end)}",
            exit_code=1,
        )
    failures = _count_failures_without_progress(end, history)
    if failures >= policy.restarts_without_progress:
        return Decision(
            Action.HOLD,
            f"{count_of(failures, 'attempt')} in a row failed before a new checkpoint was saved "
            f"(newest: step {end.saved_step}); the last one: {describe_end(end)}",
            excluded=excluded,
            exit_code=1,
        )
    remaining = _without(resources, excluded)
    needs_other_host = end.kind is EndKind.FILES_UNAVAILABLE
    placement = None if needs_other_host else place_nodes(remaining, policy)
    if placement is None:
        return _requeue_or_fail(end, excluded, resources)
    nodes, world_size = placement
    where = _render_placement(nodes, world_size, resources)
    delay = _restart_delay(failures, policy)
    when = f" in {delay:.0f} s" if delay else ""
    return Decision(
        Action.RESTART,
        f"{describe_end(end)}; restarting{when} on {where}{_render_excluded(excluded, why)}",
        delay_seconds=delay,
        nodes=nodes,
        world_size=world_size,
        excluded=excluded,
    )


def _restart_delay(failures: int, policy: Policy) -> float:
    """Seconds before the restart after this number of failures in a row without progress."""
    if not failures or not policy.restart_delays:
        return 0.0
    return policy.restart_delays[min(failures, len(policy.restart_delays)) - 1]


def _requeue_or_fail(end: AttemptEnd, excluded: tuple[str, ...], resources: Resources) -> Decision:
    reason = describe_end(end)
    if end.kind is not EndKind.FILES_UNAVAILABLE:
        reason += "; the nodes that are left are not enough"
    if resources.can_requeue:
        return Decision(
            Action.REQUEUE,
            f"{reason}, so the job is queued again{_render_excluded(excluded)}",
            excluded=excluded,
        )
    return Decision(
        Action.FAIL,
        f"{reason}; `bigtrain requeue RUN` continues the run",
        excluded=excluded,
        exit_code=1,
    )


def _nodes_to_exclude(
    end: AttemptEnd, history: Sequence[AttemptEnd], resources: Resources, policy: Policy
) -> tuple[tuple[str, ...], str]:
    """The nodes that get no ranks any more, and why if that is not how the attempt ended."""
    if end.kind not in _ERRORS:
        return end.nodes, ""
    broken = tuple(node for node in end.nodes if _count_hardware_errors(node, end, history) > 1)
    if broken and (place_nodes(_without(resources, broken), policy) or resources.can_requeue):
        return broken, "a second error that looks like failing hardware"
    suspect = tuple(
        node for node in end.nodes if _count_different(node, end, history) >= SUSPECT_ERRORS
    )
    now, then = place_nodes(resources, policy), place_nodes(_without(resources, suspect), policy)
    if suspect and now is not None and then is not None and then.world_size == now.world_size:
        return suspect, f"{SUSPECT_ERRORS} different errors"
    return (), ""


def _errors_on(node: str, end: AttemptEnd, history: Sequence[AttemptEnd]) -> list[AttemptEnd]:
    return [each for each in (*history, end) if each.kind in _ERRORS and node in each.nodes]


def _count_hardware_errors(node: str, end: AttemptEnd, history: Sequence[AttemptEnd]) -> int:
    if not looks_like_hardware(end.message):
        return 0
    return sum(looks_like_hardware(each.message) for each in _errors_on(node, end, history))


def _count_different(node: str, end: AttemptEnd, history: Sequence[AttemptEnd]) -> int:
    return len({normalise_message(each.message) for each in _errors_on(node, end, history)})


def _is_repeated(end: AttemptEnd, history: Sequence[AttemptEnd]) -> bool:
    if end.kind not in _ERRORS:
        return False
    previous = next((each for each in reversed(history) if each.kind in _ERRORS), None)
    return previous is not None and _identity(previous) == _identity(end)


def _identity(end: AttemptEnd) -> tuple[EndKind, int, str]:
    return end.kind, end.last_step, normalise_message(end.message)


def _count_failures_without_progress(end: AttemptEnd, history: Sequence[AttemptEnd]) -> int:
    count = 0
    for each in (end, *reversed(history)):
        if each.made_progress:
            break
        if each.kind is not EndKind.STOPPED and not each.rewound:
            count += 1
    return count


def _without(resources: Resources, nodes: Sequence[str]) -> Resources:
    return replace(resources, nodes=tuple(n for n in resources.nodes if n not in nodes))


def _render_placement(nodes: tuple[str, ...], world_size: int, resources: Resources) -> str:
    ranks = count_of(world_size, "rank")
    if world_size != resources.full_world_size:
        ranks = f"{world_size} of {resources.full_world_size} ranks"
    return f"{count_of(len(nodes), 'node')} with {ranks}"


def _render_excluded(excluded: tuple[str, ...], why: str = "") -> str:
    if not excluded:
        return ""
    return f" without {name_nodes(excluded)}" + (f" ({why})" if why else "")
