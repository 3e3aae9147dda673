"""Reads ``supervisor.json``, in which the supervisor of a run writes what it does now."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtrain.config.run_files import SUPERVISOR_FILE
from bigtrain.runs.json_values import number, parse_time, read_object, whole


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
    """Seconds since the last heartbeat of its slowest rank, when the file was written."""


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
