"""``metrics.jsonl``: every event of a run, one per line. Other sinks receive the same events."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bigtrain.track.json_lines import finite_values, open_to_append, read_lines
from bigtrain.track.tracker import Value

_EVENT_KEYS = ("attempt", "split", "step", "time")
"""What an event has besides its figures."""


class MetricsFile:
    """Appends each event as a line, with the number of the attempt and the time.

    The time is in seconds since 1970; lines of older versions have none.
    """

    def __init__(self, path: Path, *, attempt: int) -> None:
        self._file = open_to_append(path)
        self._attempt = attempt

    def record(self, split: str, step: int, values: Mapping[str, Value]) -> None:
        """Appends the numbers of one step."""
        numbers = finite_values(values)
        self._write({"attempt": self._attempt, "split": split, "step": step, **numbers})

    def finish(self, state: str) -> None:
        """Appends the end and closes the file."""
        self._write({"attempt": self._attempt, "split": "run", "state": state})
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps({**line, "time": round(time.time(), 3)}) + "\n")


def read_missing(
    path: Path, *, newest: Mapping[str, int], last_step: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the events that another sink lacks, in order of steps.

    Args:
        path: A ``metrics.jsonl``; it may not exist yet.
        newest: The newest step of each split that the sink has.
        last_step: Events of later steps are left out.

    Yields:
        (step, values) with keys such as ``train/loss``; of a repeated step the latest event.
    """
    latest: dict[tuple[int, str], dict[str, Any]] = {}
    for event in read_lines(path) if path.is_file() else ():
        step, split = event.get("step"), event.get("split")
        if isinstance(step, int) and newest.get(str(split), -1) < step <= last_step:
            latest[step, str(split)] = event
    for (step, split), event in sorted(latest.items(), key=lambda item: item[0]):
        values = {key: event[key] for key in event if key not in _EVENT_KEYS}
        yield step, {f"{split}/{key}": value for key, value in values.items()}


def read_metrics(path: Path, split: str) -> list[dict[str, Any]]:
    """Reads the events of one split, in order of steps.

    Args:
        path: A ``metrics.jsonl``.
        split: ``train`` or ``validation``.

    Returns:
        One event for each step; if attempts repeated a step, the event of the latest attempt. Steps
        after the last one of the newest attempt are left out, because that attempt resumed from an
        earlier checkpoint.
    """
    latest: dict[tuple[str, int], dict[str, Any]] = {}
    newest = reached = 0
    for event in read_lines(path):
        if "step" not in event:
            continue
        latest[event["split"], event["step"]] = event
        if event["attempt"] > newest:
            newest, reached = event["attempt"], 0
        if event["attempt"] == newest:
            reached = max(reached, event["step"])
    return [
        latest[kind, step] for kind, step in sorted(latest) if kind == split and step <= reached
    ]
