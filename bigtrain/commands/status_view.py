"""Determines the state of a run and its warnings, from its folder and from the queue. Pure."""

from dataclasses import dataclass
from typing import Any

from bigtrain.commands.durations import render_ago, render_duration
from bigtrain.runs.run_status import NEWS_SECONDS, RunStatus
from launcher.slurm.queue import QueueAnswer, explain_reason, seconds_to_limit, start_time


@dataclass(frozen=True, slots=True)
class StatusView:
    """A run's status with the answer of the queue, and what follows from both."""

    run: RunStatus
    queue: QueueAnswer
    state: str
    """One word or a few: ``waiting``, ``preflight``, ``running``, ``lost``, ``finished``, …"""
    warnings: tuple[str, ...] = ()
    """What a person should know at once, one line each."""

    @property
    def is_running(self) -> bool:
        """Whether ranks may be at work."""
        return self.state not in {"waiting", "lost", "ended"} and self.run.seems_running


def build_status_view(run: RunStatus, queue: QueueAnswer) -> StatusView:
    """Concludes in which state a run is, and what is wrong with it.

    Args:
        run: What its folder says.
        queue: What SLURM says about its jobs; an empty answer for other runs.
    """
    is_slurm = run.record is not None and run.record.scheduler == "slurm"
    if is_slurm and queue.problem is None:
        state, warnings = _of_slurm_run(run, queue)
    elif run.seems_running:
        state, warnings = _of_unconfirmed_run(run)
    else:
        state, warnings = run.state, []
    if queue.problem is not None:
        warnings.insert(0, f"the queue is not shown: {queue.problem}")
        warnings.insert(1, "what follows is from the run folder")
    return StatusView(run, queue, state, (*warnings, *run.problems))


def _of_slurm_run(run: RunStatus, queue: QueueAnswer) -> tuple[str, list[str]]:
    if queue.running:
        supervisor = run.supervisor
        is_known = supervisor is not None and supervisor.job in {
            None,
            *(job.job for job in queue.running),
        }
        if supervisor is None or not is_known:
            return "starting", []
        if supervisor.state == "ended":
            return "ending", []
        return supervisor.state, _silence(run)
    if queue.waiting:
        return "waiting", []
    record = run.record
    assert record is not None
    if not record.jobs:
        return "not submitted", []
    if not run.seems_running and (run.jobs or run.state != "not started"):
        return run.state, []
    return "lost", [_explain_lost(run)]


def _explain_lost(run: RunStatus) -> str:
    assert run.record is not None
    job = run.record.jobs[-1]
    if run.last_news is None:
        return (
            f"job {job} is no longer in the queue and never began: it was cancelled or could not "
            f"start; see {_output_of(run, job)}, and `bigtrain requeue {run.run_dir}` submits it "
            "again"
        )
    return (
        f"job {job} is no longer in the queue, and recorded no end: it was killed or cancelled "
        f"(last news {render_ago(run.seconds_silent)}); `bigtrain requeue {run.run_dir}` continues "
        "the run"
    )


def _output_of(run: RunStatus, job: str) -> str:
    """Where it may say why a job did not start."""
    output = run.run_dir / "logs" / f"slurm-{job}.out"
    return str(output) if output.exists() else f"`sacct -j {job}`"


def _of_unconfirmed_run(run: RunStatus) -> tuple[str, list[str]]:
    """The state of a run that seems to run, where no queue can confirm it."""
    if run.supervisor is not None:
        return run.supervisor.state, _silence(run)
    if run.is_alive is False:
        return "lost", [
            f"{run.process} no longer exists and recorded no end: it was killed "
            f"(last news {render_ago(run.seconds_silent)}); `bigtrain launch {run.run_dir}` "
            "continues the run"
        ]
    return run.state, _silence(run)


def _silence(run: RunStatus) -> list[str]:
    silent = run.seconds_silent
    if silent is None or silent < _longest_silence(run):
        return []
    if run.supervisor is not None:
        where = f"its supervisor on {run.supervisor.host or 'an unknown host'}"
        said = run.supervisor.message or run.supervisor.state
        return [f"no news for {render_duration(silent)} from {where}; its last: {said}"]
    cause = "it may be validating, saving or hanging"
    if run.is_alive is None:
        cause += f", or {run.process or 'its process'} was killed"
    return [f"no news for {render_duration(silent)}: {cause}"]


def _longest_silence(run: RunStatus) -> float:
    if run.supervisor is not None or run.speed is None:
        return NEWS_SECONDS
    return max(NEWS_SECONDS, 10 * run.speed.step_seconds)


def as_json(view: StatusView) -> dict[str, Any]:
    """The status as JSON values, for other programs; times are in seconds since 1970."""
    run, ledger = view.run, view.run.ledger
    return {
        "run": str(run.run_dir),
        "time": run.now,
        "state": view.state,
        "reason": run.reason,
        "warnings": [*view.warnings],
        "step": run.step,
        "steps": run.steps,
        "loss": run.loss,
        "tokens_per_second": run.tokens_per_second,
        "step_seconds": None if run.speed is None else run.speed.step_seconds,
        "seconds_left": run.seconds_left,
        "seconds_to_time_limit": next(map(seconds_to_limit, view.queue.running), None),
        "last_news": run.last_news,
        "checkpoint": None if run.checkpoint is None else run.checkpoint.location,
        "checkpoint_time": None if run.checkpoint is None else run.checkpoint.saved,
        "skipped_updates": run.skipped_updates,
        "queue": [
            {
                "job": job.job,
                "state": job.state,
                "reason": explain_reason(job.reason) if job.reason else None,
                "nodes": job.nodes or None,
                "num_nodes": job.num_nodes,
                "start": start_time(job),
            }
            for job in view.queue.jobs
        ],
        "supervisor": _supervisor_json(run),
        "attempts": [_attempt_json(run, number) for number in range(len(_attempts(run)))],
        "decisions": [*run.decisions],
        "stragglers": [*run.stragglers],
        "goodput": ledger.goodput,
        "allocated_seconds": ledger.allocated,
        "not_allocated_seconds": ledger.queued,
        "seconds": {str(kind): round(value, 3) for kind, value in ledger.seconds.items()},
        "share_of_metrics_read": run.share_read,
    }


def _supervisor_json(run: RunStatus) -> dict[str, Any] | None:
    if run.supervisor is None:
        return None
    return {
        "state": run.supervisor.state,
        "message": run.supervisor.message,
        "job": run.supervisor.job,
        "host": run.supervisor.host,
        "time": run.supervisor.time,
        "nodes": {
            node.name: {
                "state": node.state,
                "ranks": node.ranks,
                "phase": node.phase,
                "step": node.step,
                "seconds_since": node.seconds_since,
            }
            for node in run.supervisor.nodes
        },
    }


def _attempts(run: RunStatus) -> list[Any]:
    return [(job, attempt) for job in run.jobs for attempt in job.attempts]


def _attempt_json(run: RunStatus, number: int) -> dict[str, Any]:
    job, attempt = _attempts(run)[number]
    return {
        "attempt": attempt.number,
        "job": job.job,
        "start_step": attempt.start_step,
        "began": attempt.began,
        "world_size": attempt.world_size,
        "ended": attempt.ended,
        "end": attempt.end,
        "end_step": attempt.end_step,
        "reason": attempt.reason,
    }
