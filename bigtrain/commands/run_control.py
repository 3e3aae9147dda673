"""What `bigtrain stop`, `cancel` and `requeue` do to a run. Each returns one line, or refuses.

A request is written before any SLURM command runs, so that a supervisor that receives a signal
knows the reason.
"""

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bigtrain.commands.durations import render_duration
from bigtrain.commands.status_view import StatusView, build_status_view
from bigtrain.config.run_files import JOB_SCRIPT
from bigtrain.runs.job_file import JobRecord, load_job, update_job
from bigtrain.runs.launch_file import has_launcher
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.run_request import remove_requests, write_request, write_stop_file
from bigtrain.runs.run_status import NEWS_SECONDS, RunStatus, read_brief_status
from launcher.excluded_nodes import load_excluded
from launcher.slurm.client import (
    QueuedJob,
    cancel_job,
    release_hold,
    release_job_now,
    signal_job,
)
from launcher.slurm.errors import SlurmUnavailableError
from launcher.slurm.queue import QueueAnswer, ask_queue, explain_reason, is_held, queued_time
from launcher.slurm.submit import script_of, submit_again

ANSWER_SECONDS = 30.0
"""Limit for an answer of SLURM's controller; without one, nothing is changed."""
_NEWEST_JOBS = 10
_POLL_SECONDS = 0.5
_SETTLE_SECONDS = 60.0
"""For this time after a requeue, SLURM's own delay of two minutes is not shortened: a late report
that the job has ended on a node would end its new start."""


class RunControlError(ValueError):
    """The command does not apply to the run in its present state; the message is one line."""


@dataclass(frozen=True, slots=True)
class _Run:
    """A run as the commands see it."""

    folder: Path
    view: StatusView

    @property
    def status(self) -> RunStatus:
        return self.view.run

    @property
    def record(self) -> JobRecord | None:
        return self.view.run.record

    @property
    def is_slurm(self) -> bool:
        return self.record is not None and self.record.scheduler == "slurm"

    @property
    def has_supervisor(self) -> bool:
        """Whether a supervisor reads requests: one that wrote not long ago."""
        supervisor = self.status.supervisor
        is_at_work = supervisor is not None and supervisor.state != "ended"
        return is_at_work and self.status.now - supervisor.time < NEWS_SECONDS  # type: ignore[union-attr]

    @property
    def is_at_work(self) -> bool:
        """Whether ranks train or start, as far as the folder tells."""
        if self.status.supervisor is not None or self.record is not None:
            return self.status.seems_running
        return has_launcher(self.folder) or (
            self.status.seems_running and self.status.is_alive is not False
        )


def stop_run(run_dir: Path) -> str:
    """Makes a run save and end; cancels its jobs that have not begun.

    Raises:
        RunControlError: The run neither runs nor waits.
        SlurmError: SLURM does not answer, or refuses.
    """
    run = _look_at(run_dir)
    if not run.is_slurm:
        _check_at_work(run, "stop")
        return _ask_to_stop(run, job=None)
    queue = run.view.queue
    if queue.problem is not None:
        if not run.has_supervisor:
            raise SlurmUnavailableError(queue.problem)
        assert run.status.supervisor is not None
        line = _ask_to_stop(run, job=run.status.supervisor.job)
        return f"{line}; jobs that wait were not cancelled, because SLURM does not answer"
    if not queue.jobs or not (queue.running or queue.waiting):
        raise _nothing_to(run, "stop")
    cancelled = [_cancel(job) for job in queue.waiting]
    parts = [f"cancelled {_name(cancelled)}, which had not begun"] if cancelled else []
    if queue.running:
        parts.insert(0, _ask_to_stop(run, job=queue.running[-1].job))
        return "; ".join(parts)
    _end_record(run_dir)
    return f"{run_dir}: {parts[0]}"


def cancel_run(run_dir: Path) -> str:
    """Ends a run at once; it is not queued again.

    Raises:
        RunControlError: The run neither runs nor waits.
        SlurmError: SLURM does not answer, or refuses.
    """
    run = _look_at(run_dir)
    if not run.is_slurm:
        _check_at_work(run, "cancel")
        return _ask_to_stop(run, job=None, cancels=True)
    queue = _answered(run)
    if not (queue.running or queue.waiting):
        raise _nothing_to(run, "cancel")
    if queue.running:
        write_request(run_dir, "cancel", job=queue.running[-1].job)
    # Those that wait first: one of them might begin when another ends.
    cancelled = [_cancel(job) for job in (*queue.waiting, *queue.running)]
    if not queue.running:
        _end_record(run_dir)
    return (
        f"{run_dir}: cancelled {_name(cancelled)}; `bigtrain requeue {run_dir}` would continue the "
        "run from its newest checkpoint"
    )


def requeue_run(run_dir: Path) -> str:
    """Puts a run into the queue: submits it again, releases it, or makes it save and wait again.

    Raises:
        RunControlError: The run has no batch script, is finished, or waits already.
        SlurmError: SLURM does not answer, or refuses.
    """
    run = _look_at(run_dir)
    if not run.is_slurm:
        raise RunControlError(
            f"{run_dir}: not a run of a SLURM cluster, so it has no job to queue again; "
            f"`{shlex.join(RunFolder(run_dir).resume_command())}` resumes it"
        )
    queue = _answered(run)
    if queue.running:
        return _save_and_requeue(run, queue.running[-1])
    if queue.waiting:
        return _release(run, queue.waiting[0])
    if run.status.state == "finished":
        raise RunControlError(
            f"{run_dir}: the run has finished, at step {run.status.step}; to train on, launch it "
            "with more train.steps"
        )
    return _submit_again(run_dir)


def wait_until_stopped(run_dir: Path, *, show: Callable[[str], None]) -> str:
    """Waits until a run has ended.

    Args:
        run_dir: The run folder.
        show: Receives a line when the state changes.

    Returns:
        One line that says how it ended.
    """
    began, shown = time.monotonic(), None
    while True:
        run = _look_at(run_dir)
        busy = run.is_at_work
        if run.is_slurm and run.view.queue.problem is None:
            busy = bool(run.view.queue.running or run.view.queue.waiting)
        if not busy:
            status = run.status
            reason = f" ({status.reason})" if status.reason else ""
            after = render_duration(time.monotonic() - began)
            return f"{run_dir}: {status.state} at step {status.step or 0}{reason}, after {after}"
        if run.view.state != shown:
            shown = run.view.state
            show(f"{run_dir}: {shown}; waiting for its end")
        # squeue is a request to a server that all users share.
        time.sleep(_POLL_SECONDS * (4 if run.is_slurm else 1))


def _look_at(run_dir: Path) -> _Run:
    status = read_brief_status(run_dir, now=time.time())
    record = status.record
    if record is None and status.problems and any("job.json" in each for each in status.problems):
        raise RunControlError(next(each for each in status.problems if "job.json" in each))
    is_slurm = record is not None and record.scheduler == "slurm"
    jobs = record.jobs[-_NEWEST_JOBS:] if record is not None and is_slurm else ()
    answer = ask_queue(jobs, timeout=ANSWER_SECONDS) if jobs else QueueAnswer()
    return _Run(run_dir, build_status_view(status, answer))


def _answered(run: _Run) -> QueueAnswer:
    if run.view.queue.problem is not None:
        raise SlurmUnavailableError(run.view.queue.problem)
    return run.view.queue


def _check_at_work(run: _Run, what: str) -> None:
    if not run.is_at_work:
        raise _nothing_to(run, what)


def _nothing_to(run: _Run, what: str) -> RunControlError:
    status = run.status
    at = f" at step {status.step}" if status.step is not None else ""
    return RunControlError(
        f"{run.folder}: nothing to {what}: the run is neither running nor waiting "
        f"({run.view.state}{at})"
    )


def _ask_to_stop(run: _Run, *, job: str | None, cancels: bool = False) -> str:
    """Writes the requests that fit the run: for its supervisor, or for its ranks."""
    name = "" if job is None else f"job {job} "
    silent = run.status.seconds_silent or 0.0
    if run.record is None and not run.has_supervisor:
        write_stop_file(run.folder)
        line = f"{run.folder}: asked to save and end after its current step"
        is_silent = silent > NEWS_SECONDS and not has_launcher(run.folder)
        return f"{line}; there was no news for {render_duration(silent)}" if is_silent else line
    write_request(run.folder, "cancel" if cancels else "stop", job=job)
    if run.has_supervisor or not run.status.seems_running:
        return f"{run.folder}: asked {name or 'its supervisor '}to save and end"
    # A supervisor that is silent may not read the request; the ranks may still take steps.
    write_stop_file(run.folder)
    return (
        f"{run.folder}: asked {name or 'its ranks '}to save and end, but there was no news for "
        f"{render_duration(silent)}; if nothing happens, `bigtrain cancel {run.folder}`"
    )


def _cancel(job: QueuedJob) -> str:
    cancel_job(job.job)
    return job.job


def _name(jobs: list[str]) -> str:
    return f"job {jobs[0]}" if len(jobs) == 1 else f"jobs {', '.join(jobs)}"


def _end_record(run_dir: Path) -> None:
    update_job(run_dir, lambda record: record.with_state("ended"))


def _save_and_requeue(run: _Run, job: QueuedJob) -> str:
    assert run.record is not None
    if job.state == "COMPLETING":
        raise RunControlError(
            f"{run.folder}: job {job.job} is ending; try again in a moment, if it does not go into "
            "the queue by itself"
        )
    if run.record.cluster.restart == "none":
        raise RunControlError(
            f"{run.folder}: job {job.job} runs, and its cluster profile says restart: none; "
            f"`bigtrain stop {run.folder} --wait`, then `bigtrain requeue {run.folder}`"
        )
    write_request(run.folder, "requeue", job=job.job)
    # The signal of the time limit's warning has the same effect: save, then queue again. It arrives
    # also if a shared file system shows the request late.
    signal_job(job.job, "USR2", batch=True)
    return f"{run.folder}: asked job {job.job} to save, and to go into the queue again"


def _release(run: _Run, job: QueuedJob) -> str:
    if is_held(job):
        remove_requests(run.folder)
        with _started_by_a_person(run.folder):
            release_hold(job.job)
        return f"{run.folder}: released job {job.job}, which was held"
    if job.reason == "BeginTime":
        age = run.status.now - (queued_time(job) or 0.0)
        if age < _SETTLE_SECONDS:
            raise RunControlError(
                f"{run.folder}: job {job.job} went into the queue {render_duration(age)} ago, and "
                "SLURM may still be ending it on its nodes; it begins by itself, or try again in a "
                "minute"
            )
        release_job_now(job.job)
        return f"{run.folder}: job {job.job} may begin now, as soon as nodes are free"
    reason = f" ({explain_reason(job.reason)})" if job.reason else ""
    raise RunControlError(f"{run.folder}: job {job.job} waits in the queue already{reason}")


@contextmanager
def _started_by_a_person(run_dir: Path) -> Iterator[None]:
    """Lets the failures so far not count for the job that the block puts into the queue."""
    count = RunFolder(run_dir).count_events()
    before = load_job(run_dir)
    update_job(run_dir, lambda record: replace(record, earlier_events=count))
    try:
        yield
    except BaseException:
        if before is not None:
            earlier = before.earlier_events
            update_job(run_dir, lambda record: replace(record, earlier_events=earlier))
        raise


def _submit_again(run_dir: Path) -> str:
    if not script_of(run_dir).is_file():
        raise RunControlError(
            f"{run_dir}: there is no {JOB_SCRIPT} to submit again; submit the run with `bigtrain "
            "launch`"
        )
    remove_requests(run_dir)
    with _started_by_a_person(run_dir):
        job = submit_again(run_dir)
    update_job(run_dir, lambda record: record.with_job(job).with_state("submitted"))
    avoided = [each.node for each in load_excluded(run_dir.absolute().parent)]
    without = f", without {', '.join(avoided)}" if avoided else ""
    return f"{run_dir}: submitted again as job {job}{without}"
