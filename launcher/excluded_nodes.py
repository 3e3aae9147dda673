"""Nodes that failed recently. A file in the runs folder lists them, and new jobs avoid them."""

import fcntl
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from launcher.files import replace_file

logger = logging.getLogger(__name__)

EXCLUDED_FILE = "excluded-nodes.json"
EXCLUDED_HOURS = 24
"""How long a node is avoided."""


@dataclass(frozen=True, slots=True)
class ExcludedNode:
    """A node to avoid."""

    node: str
    """The scheduler's name of the node."""
    reason: str
    """What was wrong, in one line."""
    until: datetime
    """When it may be used again."""
    run: str
    """The run that found the fault."""

    def __str__(self) -> str:
        return f"{self.node} until {self.until:%Y-%m-%d %H:%M} UTC ({self.run}: {self.reason})"


def load_excluded(runs_dir: Path, *, now: datetime | None = None) -> list[ExcludedNode]:
    """Reads which nodes must be avoided, in order of their names; leaves out expired entries.

    A file that cannot be read excludes no node; a warning says so.

    Args:
        runs_dir: The folder of the run folders.
        now: The present time; for tests.
    """
    now = now or datetime.now(UTC)
    file = runs_dir / EXCLUDED_FILE
    try:
        entries = [_parse(node, entry) for node, entry in _load(file).items()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning(
            "%s cannot be read (%s), so no node is avoided; correct or remove it", file, error
        )
        return []
    return sorted((each for each in entries if each.until > now), key=lambda each: each.node)


def remember_excluded(
    runs_dir: Path,
    nodes: Sequence[str],
    *,
    reason: str,
    run: str,
    hours: float = EXCLUDED_HOURS,
    now: datetime | None = None,
) -> None:
    """Adds nodes to the file, and removes expired entries.

    Args:
        runs_dir: The folder of the run folders.
        nodes: The scheduler's names of the nodes.
        reason: What was wrong, in one line.
        run: Name of the run that found the fault.
        hours: How long the nodes are avoided.
        now: The present time; for tests.

    Raises:
        OSError: The file cannot be written.
    """
    now = now or datetime.now(UTC)
    with _lock(runs_dir):
        kept = {each.node: each for each in load_excluded(runs_dir, now=now)}
        until = now + timedelta(hours=hours)
        kept |= {node: ExcludedNode(node, reason, until, run) for node in nodes}
        values = {
            each.node: {
                "reason": each.reason,
                "until": each.until.isoformat(timespec="seconds"),
                "run": each.run,
            }
            for each in sorted(kept.values(), key=lambda each: each.node)
        }
        replace_file(runs_dir / EXCLUDED_FILE, f"{json.dumps(values, indent=1)}\n")


def _load(file: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    return values


def _parse(node: str, entry: Any) -> ExcludedNode:
    until = datetime.fromisoformat(entry["until"])
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return ExcludedNode(node, str(entry["reason"]), until, str(entry["run"]))


@contextmanager
def _lock(runs_dir: Path) -> Iterator[None]:
    """Two supervisors may remember nodes at the same time."""
    with (runs_dir / f".{EXCLUDED_FILE}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
