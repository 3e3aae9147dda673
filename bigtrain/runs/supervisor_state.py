"""Reads the files that say what a run does now: ``supervisor.json`` and ``status.json``.

A reader must live with files that are absent, damaged, or written by a newer version: it shows what
it can read, and says what it could not.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtrain.runs.run_events import parse_time

SUPERVISOR_FILE = "supervisor.json"


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node of a run, as its supervisor saw it last."""

    name: str
    state: str
    """``in_use``, ``spare``, ``lost`` or ``excluded``."""
    ranks: str = ""
    """Ranks on it, such as 0-7; empty if it has none."""
    phase: str | None = None
    step: int | None = None
    seconds_since: float | None = None
    """Seconds since the last sign of life of its slowest rank, when the file was written."""


@dataclass(frozen=True, slots=True)
class SupervisorState:
    """What ``supervisor.json`` says."""

    time: float
    """When it was written, in seconds since 1970."""
    state: str
    """``starting``, ``preflight``, ``running``, ``stopping``, ``restarting`` or ``ended``."""
    job: str | None = None
    host: str | None = None
    pid: int | None = None
    message: str = ""
    nodes: tuple[NodeState, ...] = ()


def read_object(file: Path, problems: list[str]) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        file: The file.
        problems: Receives one line if the file is damaged or cannot be read.

    Returns:
        The object; empty if there is none.
    """
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        problems.append(f"{file} cannot be read: {error.strerror or error}")
        return {}
    except ValueError as error:
        problems.append(f"{file} is damaged ({error}): what it says is not shown")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{file} is damaged (not a JSON object): what it says is not shown")
        return {}
    return value


def read_supervisor(run_dir: Path, problems: list[str]) -> SupervisorState | None:
    """Reads ``supervisor.json`` of a run; None if there is none, or if it cannot be read.

    Args:
        run_dir: The run folder.
        problems: Receives one line if the file is damaged.
    """
    file = run_dir / SUPERVISOR_FILE
    values = read_object(file, problems)
    if not values:
        return None
    time, state, nodes = parse_time(values.get("time")), values.get("state"), values.get("nodes")
    if time is None or not isinstance(state, str):
        problems.append(f"{file} is damaged (no time or state): what it says is not shown")
        return None
    job, host = values.get("job"), values.get("host")
    return SupervisorState(
        time=time,
        state=state,
        job=None if job is None else str(job),
        host=None if host is None else str(host),
        pid=whole(values.get("pid")),
        message=str(values.get("message") or ""),
        nodes=tuple(_nodes(nodes)) if isinstance(nodes, dict) else (),
    )


def _nodes(nodes: Mapping[str, Any]) -> Iterator[NodeState]:
    for name, values in nodes.items():
        if isinstance(values, dict):
            yield NodeState(
                name=str(name),
                state=str(values.get("state", "unknown")),
                ranks=str(values.get("ranks") or ""),
                phase=None if values.get("phase") is None else str(values["phase"]),
                step=whole(values.get("step")),
                seconds_since=number(values.get("seconds_since")),
            )


def ranks_of(node: NodeState) -> list[int]:
    """The ranks on a node, from a text such as ``0-3,6``; parts that are not ranks are left out."""
    found: list[int] = []
    for part in node.ranks.split(","):
        if match := re.fullmatch(r"\s*(\d{1,7})(?:-(\d{1,7}))?\s*", part):
            found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def compress_names(names: Sequence[str]) -> str:
    """Renders node names in SLURM's short form: n1, n2 and n3 give ``n[1-3]``."""
    groups: dict[tuple[str, int], list[int]] = {}
    plain = []
    for name in names:
        match = re.fullmatch(r"(.*?)(\d{1,9})", name)
        if match is None:
            plain.append(name)
            continue
        # Numbers with leading zeros keep their width: n01 and n1 are different nodes.
        width = len(match[2]) if match[2].startswith("0") else 0
        groups.setdefault((match[1], width), []).append(int(match[2]))
    merged: dict[str, list[str]] = {}
    for (prefix, width), numbers in groups.items():
        merged.setdefault(prefix, []).extend(_ranges(sorted(set(numbers)), width))
    shown = [
        f"{prefix}[{','.join(parts)}]" if len(parts) > 1 or "-" in parts[0] else prefix + parts[0]
        for prefix, parts in merged.items()
    ]
    return ",".join([*plain, *shown])


def _ranges(numbers: Sequence[int], width: int) -> Iterator[str]:
    begin = 0
    for at in range(1, len(numbers) + 1):
        if at < len(numbers) and numbers[at] == numbers[at - 1] + 1:
            continue
        first, last = f"{numbers[begin]:0{width}d}", f"{numbers[at - 1]:0{width}d}"
        yield first if first == last else f"{first}-{last}"
        begin = at


def whole(value: object) -> int | None:
    """The value if it is a whole number."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: object) -> float | None:
    """The value if it is a number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]
