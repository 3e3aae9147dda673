"""Reads the ends of earlier attempts back from the events that supervisors wrote.

A supervisor whose node is lost writes no end. The next one counts that as a failed attempt, so that
a run that loses its supervisor again and again is held in the end.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from bigtrain.config.rewind_plan import RewindPlan
from launcher.supervisor.values import Action, AttemptEnd, EndKind, StopCause

_FIELDS = {field.name for field in dataclasses.fields(AttemptEnd)}
Event = Mapping[str, Any]


def read_history(events: Iterable[Event]) -> list[AttemptEnd]:
    """The ends of attempts, oldest first, from events of ``attempts.jsonl``.

    Args:
        events: Those since a person last started the run, without those of the present job. A
            rewind that a local launch made counts as an end, too.
    """
    return _read(events).ends


def find_lost_end(events: Iterable[Event], *, saved_step: int) -> AttemptEnd | None:
    """How the newest job ended, if its supervisor was lost; None if it recorded its end.

    Args:
        events: As for `read_history`, which leaves this end out.
        saved_step: Step of the run's newest complete checkpoint.
    """
    found = _read(events)
    return None if found.lost is None else _with_step(found.lost, saved_step, found.lost_has_begun)


def read_end(event: Event) -> AttemptEnd:
    """The end in an event.

    Raises:
        KeyError, TypeError, ValueError: The event is not complete, or of another version.
    """
    fields = {name: value for name, value in event.items() if name in _FIELDS}
    cause, plan = fields.get("stop_cause"), fields.get("divergence")
    fields["kind"] = EndKind(fields["kind"])
    fields["stop_cause"] = None if cause is None else StopCause(cause)
    fields["divergence"] = None if plan is None else RewindPlan(**plan)
    fields["nodes"] = tuple(fields.get("nodes", ()))
    return AttemptEnd(**fields)


@dataclass(slots=True)
class _History:
    ends: list[AttemptEnd] = field(default_factory=list)
    lost: AttemptEnd | None = None  # the end of the newest job, if it recorded none
    lost_has_begun: bool = False  # whether an attempt of that job began
    newest_has_begun: bool = True  # the same of the newest of `ends`
    is_decided: bool = True


def _read(events: Iterable[Event]) -> _History:
    found = _History()
    for event in events:
        with suppress(KeyError, TypeError, ValueError):
            _add(found, event)
    return found


def _add(found: _History, event: Event) -> None:
    match event.get("event"):
        case "job_start":
            if found.lost is not None:
                found.ends.append(found.lost)
                found.newest_has_begun = found.lost_has_begun
            found.lost, found.lost_has_begun = _lost_job(event), False
        case "job_end":
            found.lost = None
        case "start":
            _add_start(found, int(event.get("step") or 0))
        case "attempt_end":
            end = read_end(event)
            found.ends.append(end)
            found.is_decided, found.newest_has_begun = False, True
            if found.lost is not None:
                found.lost = _at_step(found.lost, end.saved_step)
        case "decision":
            if event.get("action") == Action.REWIND:
                if found.is_decided:
                    found.ends.append(AttemptEnd(EndKind.DIVERGED, 0, 0, 0))
                found.ends[-1] = replace(found.ends[-1], rewound=True)
            found.is_decided = True


def _add_start(found: _History, step: int) -> None:
    if found.ends and found.ends[-1].kind is EndKind.NODE_LOST:
        # The attempt begins at the newest checkpoint, which a lost supervisor did not record.
        found.ends[-1] = _with_step(found.ends[-1], step, found.newest_has_begun)
    if found.lost is not None:
        found.lost_has_begun = True
        found.lost = _at_step(found.lost, step)


def _lost_job(event: Event) -> AttemptEnd:
    job, first = event.get("job"), next(iter(event.get("nodes", ())), "?")
    message = f"job {job} lost its supervisor, on {first}"
    return AttemptEnd(EndKind.NODE_LOST, 0, 0, 0, message=message)


def _at_step(end: AttemptEnd, step: int) -> AttemptEnd:
    return replace(end, started_at_step=step, last_step=step, saved_step=step)


def _with_step(end: AttemptEnd, step: int, has_begun: bool) -> AttemptEnd:
    """The end with the step of the newest checkpoint: saved by it, if it has begun an attempt."""
    return _with_saved(end, step) if has_begun else _at_step(end, step)


def _with_saved(end: AttemptEnd, step: int) -> AttemptEnd:
    return replace(end, last_step=max(end.last_step, step), saved_step=max(end.saved_step, step))
