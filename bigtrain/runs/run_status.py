"""The state of a run from the files of its folder, for a login node: fast, and without torch.

Nothing here waits for a lock or writes, and a damaged file is a line in `RunStatus.problems`, never
an error: the other files are still shown.
"""

import os
import socket
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigtrain.checkpoint.schema import COMMIT_FILE
from bigtrain.checkpoint.step_folders import CHECKPOINTS
from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.saved import CONFIG_FILE, load_run_of
from bigtrain.runs.goodput import Ledger, build_ledger
from bigtrain.runs.job_file import JOB_CONFIG, JOB_FILE, JobFileError, JobRecord, load_job
from bigtrain.runs.json_values import number, parse_time, read_object, whole
from bigtrain.runs.metrics_scan import (
    Line,
    Periods,
    read_newest_lines,
    sample_metrics,
    scan_metrics,
)
from bigtrain.runs.run_events import (
    JobTimes,
    group_into_jobs,
    last_steps_that_count,
    read_events,
)
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.supervisor_state import SupervisorState, read_supervisor

NEWS_SECONDS = 60.0
"""A run that was silent for longer is reported: a supervisor writes every 2 seconds, and a
local run after every step."""
_RECENT_STEPS = 200
_NEWEST_STRAGGLERS = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The newest complete checkpoint of a run."""

    location: str
    """A folder or a URL."""
    saved: float | None
    """When it was committed, in seconds since 1970; None if that is not known."""


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast the newest steps were."""

    step_seconds: float
    """The median."""
    seconds_per_step: float
    """The mean with saves and validation between the steps, for the time left."""
    steps: int
    """Number of steps measured."""


@dataclass(slots=True)
class RunStatus:
    """What the folder of a run says about it. Times are in seconds since 1970."""

    run_dir: Path
    now: float
    state: str
    """``running``, ``finished``, ``stopped``, ``failed``, ``held`` or ``rewound``, as rank 0, the
    launcher or the supervisor wrote it; ``not started`` if none did."""
    reason: str | None = None
    step: int | None = None
    steps: int | None = None
    """Steps that the run takes in all; None if its config cannot be read."""
    loss: float | None = None
    tokens_per_second: float | None = None
    last_news: float | None = None
    """The newest time that any of its files gives; None if none does."""
    is_alive: bool | None = None
    """Whether its process on this machine exists; None if that cannot be known from here."""
    process: str | None = None
    """Rank 0 of the newest attempt, such as ``process 4711 on node1``."""
    speed: Speed | None = None
    checkpoint: Checkpoint | None = None
    skipped_updates: int = 0
    jobs: Sequence[JobTimes] = ()
    decisions: Sequence[dict[str, Any]] = ()
    """The supervisor's decisions, oldest first."""
    stragglers: Sequence[dict[str, Any]] = ()
    """The newest reports of slow ranks in the newest attempt."""
    supervisor: SupervisorState | None = None
    record: JobRecord | None = None
    """``job.json``; None for a run that was launched on one machine."""
    ledger: Ledger = field(default_factory=Ledger)
    share_read: float = 1.0
    """Share of ``metrics.jsonl`` that the ledger was computed from; below 1.0 it is an estimate."""
    problems: list[str] = field(default_factory=list)
    """One line for each file that is damaged."""

    @property
    def steps_left(self) -> int | None:
        """Steps to take; None if that is not known."""
        return None if self.steps is None else max(0, self.steps - (self.step or 0))

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the last step at the speed of the newest ones; None if that is not known."""
        if self.speed is None or self.steps_left is None:
            return None
        return self.steps_left * self.speed.seconds_per_step

    @property
    def seems_running(self) -> bool:
        """Whether the files say that the run is being trained."""
        if self.supervisor is not None and self.supervisor.state != "ended":
            return True
        return self.state == "running"

    @property
    def seconds_silent(self) -> float | None:
        """Seconds since the last news; None if there was none."""
        return None if self.last_news is None else max(0.0, self.now - self.last_news)


def read_brief_status(run_dir: Path, *, now: float) -> RunStatus:
    """Reads what a list of runs shows: no config, no metrics, no ledger.

    Args:
        run_dir: A run folder.
        now: The time, in seconds since 1970.
    """
    problems: list[str] = []
    folder = RunFolder(run_dir)
    values, events = read_object(folder.status, problems), read_events(folder.attempts)
    jobs, reason = group_into_jobs(events), values.get("reason")
    status = RunStatus(
        run_dir=run_dir,
        now=now,
        state=str(values.get("state") or _recorded_state(jobs)),
        reason=None if reason is None else str(reason),
        step=whole(values.get("step")),
        loss=number(values.get("loss")),
        tokens_per_second=number(values.get("tokens_per_second")),
        supervisor=read_supervisor(run_dir, problems),
        record=_read_record(run_dir, problems),
        jobs=jobs,
        decisions=[event for event in events if event.get("event") == "decision"],
        stragglers=_newest_stragglers(events),
        problems=problems,
    )
    _add_life(status, [values, *events[-1:]])
    return status


def _recorded_state(jobs: Sequence[JobTimes]) -> str:
    """The state that the record of the attempts shows, where status.json does not."""
    attempts = [attempt for job in jobs for attempt in job.attempts]
    if not attempts:
        return "not started"
    return "running" if attempts[-1].ended is None else attempts[-1].end or "ended"


def read_run_status(run_dir: Path, *, now: float, exact: bool = False) -> RunStatus:
    """Reads the status of a run from its folder.

    Args:
        run_dir: A run folder.
        now: The time, in seconds since 1970.
        exact: Whether to read all lines of a large ``metrics.jsonl`` instead of a sample; about 12
            seconds for each GB.
    """
    status = read_brief_status(run_dir, now=now)
    newest = read_newest_lines(RunFolder(run_dir).metrics)
    config = _read_config(run_dir, status.problems)
    status.steps = None if config is None else config.train.steps
    _add_progress(status, newest)
    _add_life(status, newest[-1:])
    status.checkpoint = _find_checkpoint(run_dir, newest)
    _add_ledger(status, config, exact=exact)
    return status


def _read_record(run_dir: Path, problems: list[str]) -> JobRecord | None:
    try:
        return load_job(run_dir)
    except PermissionError:
        file = run_dir / JOB_FILE
        problems.append(f"{file}: only the user who launched the run may read it")
        return None
    except (JobFileError, OSError) as error:
        problems.append(str(error))
        return None


def _read_config(run_dir: Path, problems: list[str]) -> RunConfig | None:
    """The config of the newest attempt, or of the job that has not begun one."""
    for name in (CONFIG_FILE, JOB_CONFIG):
        if (run_dir / name).is_file():
            try:
                return load_run_of(run_dir, name)
            except (ConfigError, OSError, UnicodeDecodeError) as error:
                problems.append(f"the config cannot be read: {error}")
    return None


def _add_progress(status: RunStatus, newest: Sequence[Line]) -> None:
    steps = [line for line in newest if line.get("split") == "train" and whole(line.get("step"))]
    last: Line = steps[-1] if steps else {}
    if status.step is None:  # The status is damaged or absent.
        status.step = last.get("step")
    if status.step == last.get("step"):  # Between attempts the status has no figures.
        status.loss = number(last.get("loss")) if status.loss is None else status.loss
        if status.tokens_per_second is None:
            status.tokens_per_second = number(last.get("tokens_per_second"))
    status.skipped_updates = whole(last.get("skipped_updates")) or 0
    attempts = [attempt.number for job in status.jobs for attempt in job.attempts]
    of_newest = [line for line in steps if line["attempt"] in attempts[-1:]]
    status.speed = _measure_speed((of_newest or steps)[-_RECENT_STEPS:])


def _measure_speed(steps: Sequence[Line]) -> Speed | None:
    seconds = [value for line in steps if (value := number(line.get("step_seconds"))) is not None]
    if not seconds:
        return None
    waits = ("checkpoint_seconds", "validation_seconds")
    between = sum(number(line.get(name)) or 0.0 for line in steps for name in waits)
    return Speed(statistics.median(seconds), (sum(seconds) + between) / len(seconds), len(seconds))


def _add_life(status: RunStatus, dated: Sequence[dict[str, Any]]) -> None:
    """Finds the time of the last news, and whether rank 0 exists if it is on this machine."""
    times = [status.last_news, *(parse_time(each.get("time")) for each in dated)]
    times += [None if status.supervisor is None else status.supervisor.time]
    status.last_news = max((time for time in times if time is not None), default=None)
    newest = next((job.attempts[-1] for job in reversed(status.jobs) if job.attempts), None)
    if newest is None or newest.process is None:
        return
    status.process = f"process {newest.process} on {newest.host}"
    if newest.host == socket.gethostname():
        status.is_alive = _exists(newest.process)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _find_checkpoint(run_dir: Path, newest: Sequence[Line]) -> Checkpoint | None:
    location = RunFolder(run_dir).last_checkpoint
    if location is None:
        return None
    # The folder may have been moved since.
    name = location.rstrip("/").rpartition("/")[2]
    for folder in (run_dir / CHECKPOINTS / name, Path(location)):
        try:
            return Checkpoint(str(folder), (folder / COMMIT_FILE).stat().st_mtime)
        except OSError:
            continue
    times = [
        parse_time(line.get("time"))
        for line in newest
        if line.get("split") == "checkpoint" and name.startswith(f"step-{line.get('step', 0):08d}")
    ]
    return Checkpoint(location, times[-1] if times else None)


def _newest_stragglers(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[object, dict[str, Any]] = {}
    for event in events:
        if event.get("event") in ("start", "job_start"):
            found = {}
        elif event.get("event") == "straggler":
            found.pop(event.get("rank"), None)
            found[event.get("rank")] = event
    return list(found.values())[-_NEWEST_STRAGGLERS:]


def _add_ledger(status: RunStatus, config: RunConfig | None, *, exact: bool) -> None:
    folder = RunFolder(status.run_dir)
    last = last_steps_that_count(read_events(folder.attempts))
    periods = Periods()
    if config is not None:
        has_validation = bool(config.data.validation_corpora)
        periods = Periods(
            config.checkpoint.every, config.validation.every if has_validation else None
        )
    sums = (
        scan_metrics(folder.metrics, last)
        if exact
        else sample_metrics(folder.metrics, last, periods=periods)
    )
    silent = status.seconds_silent
    is_running = status.seems_running and status.is_alive is not False
    is_fresh = is_running and silent is not None and silent < NEWS_SECONDS
    until = status.now if is_fresh else status.last_news or status.now
    submitted = None if status.record is None else parse_time(status.record.submitted)
    status.share_read = sums.share_read
    status.ledger = build_ledger(status.jobs, sums.attempts, until=until, submitted=submitted)
