"""Renders the status of a run as lines of text. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

from bigtrain.commands.checkpoint.formatting import align_columns
from bigtrain.commands.durations import render_ago, render_duration, render_moment
from bigtrain.commands.status_view import StatusView
from bigtrain.config.node_names import compress_names
from bigtrain.runs.goodput import Kind, Ledger
from bigtrain.runs.run_events import AttemptTimes, JobTimes
from bigtrain.runs.run_status import RunStatus
from bigtrain.runs.supervisor_state import NodeState, SupervisorState
from launcher.slurm.client import QueuedJob
from launcher.slurm.queue import (
    RUNNING,
    WAITING,
    explain_reason,
    seconds_of_limit,
    seconds_to_limit,
    start_time,
)

_NEWEST_ATTEMPTS = 4
_FEW_NODES = 8
_MESSAGE_LENGTH = 160


def render_status(view: StatusView) -> Iterator[str]:
    """Renders the status: a headline, warnings, then one row for each subject."""
    run = view.run
    yield f"{run.run_dir}: {view.state}{_render_progress(run)}"
    for warning in view.warnings:
        yield f"  ! {warning}"
    rows = [(name, text) for name, text in _rows(view) if text]
    yield from (f"  {line}" for line in align_columns(rows))


def _render_progress(run: RunStatus) -> str:
    if run.step is None:
        return "" if run.steps is None else f", {run.steps:,} steps to take"
    if not run.steps:
        return f", step {run.step:,}"
    return f", step {run.step:,} of {run.steps:,} ({run.step / run.steps:.1%})"


def _rows(view: StatusView) -> Iterator[tuple[str, str]]:
    run = view.run
    ended = run.jobs[-1] if run.jobs and run.jobs[-1].ended is not None else None
    if run.reason and not view.is_running and (ended is None or ended.job is None):
        yield "reason", _cut(run.reason)
    active = (*view.queue.running, *view.queue.waiting)
    for number, job in enumerate(active or view.queue.jobs[-1:]):
        yield "" if number else "job", _render_job(job, now=run.now)
    if ended is not None and ended.job is not None:
        reason = f": {_cut(ended.reason)}" if ended.reason else ""
        yield "last job", f"{ended.job} {ended.end}{reason}"
    if run.supervisor is not None and view.is_running:
        yield "supervisor", _render_supervisor(run.supervisor, now=run.now)
    yield "loss", _render_loss(run)
    yield "time left", _render_time_left(view)
    if run.checkpoint is not None:
        saved = run.checkpoint.saved
        age = render_ago(None if saved is None else run.now - saved)
        yield "checkpoint", f"{run.checkpoint.location}, {age}"
    yield from _render_attempts(run)
    if run.supervisor is not None and view.is_running:
        for number, line in enumerate(_render_nodes(run.supervisor.nodes)):
            yield "" if number else "nodes", line
    for number, event in enumerate(run.stragglers):
        yield "" if number else "slow ranks", _render_straggler(event)
    if run.skipped_updates:
        yield "skipped", f"{run.skipped_updates:,} updates, by the loss guard"
    yield from _render_ledger(run.ledger, share_read=run.share_read)


def _render_job(job: QueuedJob, *, now: float) -> str:
    text = f"{job.job} {job.state}"
    start = start_time(job)
    if job.state in WAITING:
        text += f" ({explain_reason(job.reason)})" if job.reason else ""
        if start is not None and start > now:
            text += f", expected to begin at {render_moment(start, now=now)}"
        return f"{text}, {job.num_nodes} {_plural(job.num_nodes, 'node')}"
    if start is not None:
        passed = render_duration(now - start)
        text += f" since {passed}" if job.state in RUNNING else f", began {passed} ago"
    if job.nodes:
        text += f" on {job.nodes}"
    return text


def _render_supervisor(supervisor: SupervisorState, *, now: float) -> str:
    text = supervisor.state if not supervisor.message else supervisor.message
    host = f" on {supervisor.host}" if supervisor.host else ""
    return f"{_cut(text)} ({render_ago(now - supervisor.time)}{host})"


def _render_loss(run: RunStatus) -> str:
    parts = []
    if run.loss is not None:
        parts.append(f"{run.loss:.4f}")
    if run.tokens_per_second is not None:
        parts.append(f"{run.tokens_per_second:,.0f} tokens/s")
    if run.speed is not None:
        steps = run.speed.steps
        of = "1 step" if steps == 1 else f"median of {steps} steps"
        parts.append(f"{render_duration(run.speed.step_seconds)} per step ({of})")
    return ", ".join(parts)


def _render_time_left(view: StatusView) -> str:
    left = view.run.seconds_left
    limit = next(map(seconds_to_limit, view.queue.running), None)
    if not left and limit is None:
        return ""
    parts = []
    if left:
        parts.append(f"{render_duration(left)} for {view.run.steps_left:,} steps at this speed")
    if limit is not None:
        parts.append(f"{render_duration(limit)} to the job's time limit")
    if left and limit and limit < left:
        parts.append(f"so {_count_jobs(view, left - limit)} of this length will follow")
    return "; ".join(parts)


def _count_jobs(view: StatusView, seconds: float) -> str:
    length = seconds_of_limit(view.queue.running[0])
    count = -int(-seconds // length) if length else 1
    return f"about {count} more {_plural(count, 'job')}"


def _render_attempts(run: RunStatus) -> Iterator[tuple[str, str]]:
    attempts = [(job, attempt) for job in run.jobs for attempt in job.attempts]
    if not attempts:
        return
    allocations = len([job for job in run.jobs if job.job is not None])
    restarts = sum(max(0, len(job.attempts) - 1) for job in run.jobs)
    text = f"{len(attempts)}"
    if allocations:
        text += f" in {allocations} {_plural(allocations, 'allocation')}"
    if restarts:
        text += f", {restarts} {_plural(restarts, 'restart')} within one"
    yield "attempts", text
    for job, attempt in attempts[-_NEWEST_ATTEMPTS:]:
        yield "", _render_attempt(job, attempt, run)


def _render_attempt(job: JobTimes, attempt: AttemptTimes, run: RunStatus) -> str:
    text = f"{attempt.number}: from step {attempt.start_step:,}"
    if attempt.world_size:
        text += f" on {attempt.world_size} {_plural(attempt.world_size, 'rank')}"
    if job.job is not None:
        text += f", job {job.job}"
    if attempt.ended is None:
        is_newest = run.jobs[-1].attempts[-1:] == [attempt]
        runs = is_newest and run.seems_running
        return text + ("" if runs else ", no end recorded")
    text += f", {render_duration(attempt.ended - attempt.began)}"
    step = "" if attempt.end_step is None else f" at step {attempt.end_step:,}"
    end = (attempt.end or "ended").replace("_", " ")
    reason = f": {_cut(attempt.reason)}" if attempt.reason else ""
    decision = f" → {_cut(attempt.decision)}" if attempt.decision else ""
    return f"{text}, {end}{step}{reason}{decision}"


def _render_nodes(nodes: Sequence[NodeState]) -> Iterator[str]:
    if len(nodes) <= _FEW_NODES:
        yield from map(_render_node, nodes)
        return
    groups: dict[tuple[str, str | None, int | None], list[str]] = {}
    for node in nodes:
        groups.setdefault((node.state, node.phase, node.step), []).append(node.name)
    for (state, phase, step), names in groups.items():
        where = "" if phase is None else f", {phase}"
        where += "" if step is None else f" at step {step:,}"
        yield f"{len(names)} {state.replace('_', ' ')}{where}: {compress_names(names)}"


def _render_node(node: NodeState) -> str:
    text = f"{node.name} {node.state.replace('_', ' ')}"
    text += f", ranks {node.ranks}" if node.ranks else ""
    if node.phase is not None:
        text += f", {node.phase}"
    if node.step is not None:
        text += f" at step {node.step:,}"
    if node.seconds_since is not None:
        text += f", its slowest rank silent for {render_duration(node.seconds_since)}"
    return text


def _render_straggler(event: dict[str, Any]) -> str:
    ratio = event.get("ratio")
    times = f"{ratio:.2f} ×" if isinstance(ratio, int | float) else "above"
    return (
        f"rank {event.get('rank')} on {event.get('node') or 'an unknown node'}: {times} the median "
        f"time of a step, at step {event.get('step')}"
    )


def _render_ledger(ledger: Ledger, *, share_read: float) -> Iterator[tuple[str, str]]:
    if ledger.goodput is None:
        return
    text = f"{ledger.goodput:.1%} of {render_duration(ledger.allocated)} allocated"
    if ledger.queued >= 1:
        text += f" (and {render_duration(ledger.queued)} in the queue or between jobs)"
    if share_read < 1.0:
        text += f"; estimated from {share_read:.1%} of metrics.jsonl (--exact reads all)"
    yield "goodput", text
    rest = [
        f"{kind} {seconds / ledger.allocated:.1%}"
        for kind, seconds in sorted(ledger.seconds.items(), key=lambda each: -each[1])
        if kind is not Kind.STEPS and seconds / ledger.allocated >= 0.0005
    ]
    if rest:
        yield "", f"the rest: {', '.join(rest)}"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MESSAGE_LENGTH else f"{line[: _MESSAGE_LENGTH - 1]}…"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
