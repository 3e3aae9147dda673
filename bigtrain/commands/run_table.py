"""The list that `bigtrain status` shows without a run: one line for each run of a folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bigtrain.commands.checkpoint.formatting import align_columns
from bigtrain.commands.durations import render_ago
from bigtrain.commands.status_view import StatusView, build_status_view
from bigtrain.runs.run_list import ListedRun, list_runs
from launcher.slurm.queue import QueueAnswer, ask_queue

Listed = tuple[ListedRun, StatusView]
_NEWEST_JOBS = 2


def list_views(runs_dir: Path, *, now: float) -> list[Listed]:
    """Lists the runs of a folder, newest first, with what one question to the queue says of them.

    Raises:
        NoRunError: There is no such folder.
    """
    runs = list_runs(runs_dir, now=now)
    answer = ask_queue([job for run in runs for job in _open_jobs(run)])
    views = []
    for run in runs:
        jobs = _open_jobs(run)
        known = tuple(job for job in answer.jobs if job.job in jobs)
        problem = answer.problem if jobs else None
        views.append((run, build_status_view(run.status, QueueAnswer(known, problem))))
    return views


def _open_jobs(run: ListedRun) -> tuple[str, ...]:
    """The ids to ask the queue about: of runs on SLURM that have not ended."""
    record = run.status.record
    if record is None or record.scheduler != "slurm" or record.state == "ended":
        return ()
    return record.jobs[-_NEWEST_JOBS:]


def render_list(runs: Sequence[Listed], runs_dir: Path) -> Iterator[str]:
    """Renders the table, and a line below it if the queue cannot be shown."""
    if not runs:
        yield f"{runs_dir}: no runs yet"
        return
    rows: list[tuple[str, ...]] = [("run", "state", "step", "loss", "tokens/s", "news", "job")]
    rows += [_row(run, view) for run, view in runs]
    yield from align_columns(rows, right=(2, 3, 4))
    problem = next((view.queue.problem for _, view in runs if view.queue.problem), None)
    if problem is not None:
        yield f"the queue is not shown: {problem}"


def _row(run: ListedRun, view: StatusView) -> tuple[str, ...]:
    status = run.status
    step = "" if status.step is None else f"{status.step:,}"
    if run.steps is not None:
        step = f"{step or 0}/{run.steps:,}"
    speed = status.tokens_per_second if view.is_running else None
    return (
        status.run_dir.name,
        f"{view.state} !" if view.warnings else view.state,
        step,
        "" if status.loss is None else f"{status.loss:.4f}",
        "" if speed is None else f"{speed:,.0f}",
        render_ago(max(0.0, status.now - run.changed)),
        _job(view),
    )


def _job(view: StatusView) -> str:
    record = view.run.record
    if record is None:
        return ""
    if record.scheduler == "hosts":
        return "hosts"
    job = (*view.queue.running, *view.queue.waiting)[:1]
    if job:
        reason = f" {job[0].reason}" if job[0].reason else ""
        return f"{job[0].job} {job[0].state}{reason}"
    return record.jobs[-1] if record.jobs else ""


def list_as_json(runs: Sequence[Listed]) -> list[dict[str, Any]]:
    """The list as JSON values."""
    return [
        {
            "run": str(run.status.run_dir),
            "state": view.state,
            "step": run.status.step,
            "steps": run.steps,
            "loss": run.status.loss,
            "last_news": run.status.last_news,
            "jobs": [] if run.status.record is None else [*run.status.record.jobs],
            "queue": {job.job: job.state for job in view.queue.jobs},
            "warnings": [*view.warnings],
        }
        for run, view in runs
    ]
