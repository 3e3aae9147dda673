"""The events of ``attempts.jsonl``, grouped into jobs and attempts. Pure, except for one reader.

A job is one allocation of nodes: from the supervisor's ``job_start`` to its ``job_end``. An attempt
that no supervisor started, such as that of a launch on one machine, is a job of its own.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigtrain.runs.json_values import parse_time, whole

Event = Mapping[str, Any]

ENDED_WELL = frozenset({"finished", "stopped"})
"""How attempts end that did not fail."""


@dataclass(slots=True)
class AttemptTimes:
    """One attempt; all times are in seconds since 1970."""

    number: int
    start_step: int
    """Steps that had been taken when it began."""
    began: float
    """When rank 0 recorded the start, after the checkpoint was loaded."""
    world_size: int | None = None
    process: int | None = None
    """Process id of rank 0 on ``host``."""
    host: str | None = None
    ended: float | None = None
    """When its end was recorded; None if it was not."""
    end: str | None = None
    """How it ended: an `EndKind` of the supervisor, or the state that rank 0 wrote."""
    end_step: int | None = None
    saved_step: int | None = None
    """Step of the newest checkpoint after the attempt, if the supervisor recorded it."""
    reason: str | None = None
    seconds: float | None = None
    """Duration that rank 0 measured, from before the checkpoint was loaded."""
    decision: str | None = None
    """What the supervisor did after it, and why; None if it decided nothing."""

    @property
    def failed(self) -> bool:
        """Whether it is known to have ended with a failure."""
        return self.end is not None and self.end not in ENDED_WELL


@dataclass(slots=True)
class JobTimes:
    """One allocation, with the attempts in it."""

    job: str | None
    """The scheduler's id; None if no supervisor recorded the job."""
    began: float
    nodes: tuple[str, ...] = ()
    ended: float | None = None
    end: str | None = None
    """``finished``, ``stopped``, ``requeued``, ``held`` or ``failed``."""
    reason: str | None = None
    last_event: float = 0.0
    attempts: list[AttemptTimes] = field(default_factory=list)
    undecided: AttemptTimes | None = None
    """The attempt whose end the supervisor recorded last, until it decides what follows."""


def read_events(file: Path) -> list[dict[str, Any]]:
    """Reads the complete lines of an ``attempts.jsonl``; damaged ones are left out.

    Returns:
        The events in order; empty if there is no such file.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    events = []
    for line in content.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            events.append(value)
    return events


def group_into_jobs(events: Iterable[Event]) -> list[JobTimes]:
    """Groups events into jobs, oldest first; events without a valid time are left out."""
    jobs: list[JobTimes] = []
    is_open = False  # Whether the newest job was begun by a supervisor that recorded no end.
    for event in events:
        time = parse_time(event.get("time"))
        if time is None:
            continue
        kind = event.get("event")
        if kind == "job_start":
            jobs.append(_job_of(event, time))
            is_open = True
        elif kind == "start" and not is_open:
            jobs.append(JobTimes(None, time))
        if not jobs:
            continue
        jobs[-1].last_event = max(jobs[-1].last_event, time)
        _apply(event, time, jobs)
        if kind == "job_end":
            is_open = False
    return jobs


def last_steps_that_count(events: Iterable[Event]) -> dict[int, int]:
    """Finds the steps whose results the run still has.

    Returns:
        For each attempt that lost steps the number of its last step that counts: a later attempt
        began there, the run was rewound to it, or no later checkpoint survived a failure.
    """
    last: dict[int, int] = {}
    begun: list[int] = []

    def limit(attempts: Iterable[int], step: object) -> None:
        if isinstance(step, int):
            last.update({each: min(step, last.get(each, step)) for each in attempts})

    for event in events:
        match event.get("event"):
            case "start" if isinstance(event.get("attempt"), int):
                limit(begun, event.get("step", 0))
                begun.append(event["attempt"])
            case "rewind":
                limit(begun, event.get("to"))
            case "attempt_end" if event.get("kind") not in ENDED_WELL:
                limit([each for each in begun if each == event.get("attempt")], _saved(event))
    return last


def _saved(event: Event) -> object:
    # A failed attempt may end before it begins; then no step of it is lost.
    saved, started = event.get("saved_step"), event.get("started_at_step")
    is_known = isinstance(saved, int) and isinstance(started, int)
    return max(saved, started) if is_known else saved  # type: ignore[type-var]


def _job_of(event: Event, time: float) -> JobTimes:
    nodes = event.get("nodes")
    job = event.get("job")
    return JobTimes(
        job=None if job is None else str(job),
        began=time,
        nodes=tuple(map(str, nodes)) if isinstance(nodes, list) else (),
    )


def _apply(event: Event, time: float, jobs: list[JobTimes]) -> None:
    job = jobs[-1]
    match event.get("event"):
        case "start":
            job.attempts.append(
                AttemptTimes(
                    number=whole(event.get("attempt")) or 0,
                    start_step=whole(event.get("step")) or 0,
                    began=time,
                    world_size=whole(event.get("world_size")),
                    process=whole(event.get("process")),
                    host=None if event.get("host") is None else str(event["host"]),
                )
            )
        case "end" | "attempt_end":
            attempt = _find_attempt(jobs, event.get("attempt"))
            if attempt is not None:
                _end_attempt(attempt, event, time)
            job.undecided = attempt
        case "decision" if job.undecided is not None:
            job.undecided.decision = f"{event.get('action')}: {event.get('reason')}"
            job.undecided = None
        case "job_end":
            job.ended, job.end, job.reason = time, str(event.get("state")), event.get("reason")


def _find_attempt(jobs: Iterable[JobTimes], number: object) -> AttemptTimes | None:
    found = (each for job in jobs for each in job.attempts if each.number == number)
    return next(found, None)


def _end_attempt(attempt: AttemptTimes, event: Event, time: float) -> None:
    # The supervisor's record comes after that of rank 0, and knows the cause.
    attempt.ended = max(time, attempt.ended or 0.0)
    if event["event"] == "attempt_end":
        attempt.end, attempt.reason = str(event.get("kind")), event.get("message") or attempt.reason
        attempt.end_step = whole(event.get("last_step"), attempt.end_step)
        attempt.saved_step = whole(event.get("saved_step"))
        return
    attempt.end, attempt.reason = str(event.get("state")), event.get("reason")
    attempt.end_step = whole(event.get("step"))
    seconds = event.get("seconds")
    attempt.seconds = float(seconds) if isinstance(seconds, int | float) else None
