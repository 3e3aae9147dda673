"""Reads the ends of earlier attempts back from the events that supervisors wrote."""

import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from launcher.supervisor.values import Action, AttemptEnd, Divergence, EndKind, StopCause

_FIELDS = {field.name for field in dataclasses.fields(AttemptEnd)}


def read_history(events: Iterable[Mapping[str, Any]]) -> list[AttemptEnd]:
    """The ends of attempts, oldest first, from events of ``attempts.jsonl``.

    Args:
        events: Those since a person last started the run. A rewind that a local launch made counts
            as an end, too.
    """
    ends: list[AttemptEnd] = []
    is_decided = True
    for event in events:
        if event.get("event") == "attempt_end":
            with suppress(KeyError, TypeError, ValueError):
                ends.append(read_end(event))
                is_decided = False
        elif event.get("event") == "decision":
            if event.get("action") == Action.REWIND:
                if is_decided:
                    ends.append(AttemptEnd(EndKind.DIVERGED, 0, 0, 0))
                ends[-1] = dataclasses.replace(ends[-1], rewound=True)
            is_decided = True
    return ends


def read_end(event: Mapping[str, Any]) -> AttemptEnd:
    """The end in an event.

    Raises:
        KeyError, TypeError, ValueError: The event is not complete, or of another version.
    """
    fields = {name: value for name, value in event.items() if name in _FIELDS}
    cause, steps = fields.get("stop_cause"), fields.get("divergence")
    fields["kind"] = EndKind(fields["kind"])
    fields["stop_cause"] = None if cause is None else StopCause(cause)
    fields["divergence"] = None if steps is None else Divergence(**steps)
    fields["nodes"] = tuple(fields.get("nodes", ()))
    return AttemptEnd(**fields)
