"""``supervisor.json``: what the supervisor does now, for `bigtrain status`."""

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigtrain.config.node_names import compress_numbers
from bigtrain.config.run_files import SUPERVISOR_FILE
from launcher.agent.messages import RankBeat
from launcher.files import replace_file
from launcher.supervisor.agents import Agents
from launcher.supervisor.attempt import RunningAttempt
from launcher.supervisor.rank_starts import NodeRanks

SCHEMA = "bigtrain-supervisor/1"


@dataclass(slots=True)
class SupervisorReport:
    """Renders and writes the file: `render` in the event loop, `write` in a thread."""

    folder: Path  # the run folder
    job: str | None
    agents: Agents
    excluded: set[str]
    state: str = "starting"
    message: str = ""
    attempt_ends: int = 0
    attempt: RunningAttempt | None = None
    _started: float = field(default_factory=time.time)

    def render(self) -> dict[str, Any]:
        """Renders the contents of the file."""
        return {
            "schema": SCHEMA,
            "time": _iso_time(time.time()),
            "job": self.job,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "state": self._state,
            "attempt_ends": self.attempt_ends,
            "message": self.message,
            "nodes": {node: self._render_node(node) for node in self.agents.nodes},
        }

    def write(self, fields: Mapping[str, Any]) -> None:
        """Replaces the file. A folder that was removed is not made again.

        Raises:
            OSError: It cannot be written.
        """
        replace_file(self.folder / SUPERVISOR_FILE, json.dumps(fields, indent=1) + "\n")

    @property
    def _state(self) -> str:
        is_stopping = self.attempt is not None and self.attempt.state == "stopping"
        return "stopping" if is_stopping else self.state

    def _render_node(self, node: str) -> dict[str, Any]:
        placed = self.attempt.placed if self.attempt is not None else ()
        ranks = next((each for each in placed if each.node == node), None)
        if node in self.excluded:
            state = "excluded"
        elif node in self.agents.lost:
            state = "lost"
        else:
            state = "spare" if ranks is None else "in_use"
        fields: dict[str, Any] = {"state": state}
        if ranks is not None:
            fields["ranks"] = compress_numbers(ranks.ranks)
            assert self.attempt is not None
            fields.update(_render_slowest(ranks, self.attempt.beats))
        return fields


def _render_slowest(node: NodeRanks, beats: Mapping[int, tuple[RankBeat, float]]) -> dict[str, Any]:
    """The rank of a node that has taken the fewest steps, or said nothing for the longest time."""
    now = time.monotonic()
    found = [
        (beat.step, now - came + beat.seconds_since, beat.phase)
        for beat, came in (beats[rank] for rank in node.ranks if rank in beats)
    ]
    if not found:
        return {}
    step, seconds, phase = min(found, key=lambda each: (each[0], -each[1]))
    return {"phase": phase, "step": step, "seconds_since": round(seconds, 1)}


def _iso_time(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03}+00:00"
