"""Finds the log files of a run and reads what is new in them, across attempts and jobs. No torch.

A stream is the output of one rank, or of the job's batch host, in one or more files: each job of a
run has an output file of its own, and attempts append to the files of their ranks.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bigtrain.config.node_names import compress_names
from bigtrain.config.saved import ATTEMPTS_FILE
from bigtrain.runs.job_file import load_job
from bigtrain.runs.json_values import whole
from bigtrain.runs.run_events import read_events
from bigtrain.runs.supervisor_state import ranks_of, read_supervisor

_BLOCK_BYTES = 2**16
_JOB_OUTPUT = re.compile(r"^slurm-(\d+)(?:[-_.]\w+)?\.out$")


class NoLogError(ValueError):
    """There is no such output; the message is one line."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The output of one rank or job."""

    label: str
    """Put before each line if several streams are shown; may be empty."""
    files: tuple[Path, ...]
    """Oldest first; they may not exist yet."""


def find_streams(
    run_dir: Path, *, rank: int | None = None, node: str | None = None
) -> tuple[Stream, ...]:
    """Finds the output that a user asks for; without ``rank`` and ``node`` that of the run.

    That is the output of the batch host's jobs, which contains rank 0's; else rank 0's log.

    Args:
        run_dir: The run folder.
        rank: Only this rank.
        node: Only the ranks that are on this node now.

    Raises:
        NoLogError: The run has no such rank or node.
    """
    logs = run_dir / "logs"
    if rank is not None:
        file = logs / f"rank-{rank}.log"
        ranks = _num_ranks(run_dir)
        if not file.exists() and ranks is not None and rank >= ranks:
            has = "only rank 0" if ranks == 1 else f"ranks 0 to {ranks - 1}"
            raise NoLogError(f"{run_dir}: no rank {rank}: the run has {has}")
        return (Stream("", (file,)),)
    if node is not None:
        return tuple(
            Stream(f"rank {each}", (logs / f"rank-{each}.log",))
            for each in _ranks_on(run_dir, node)
        )
    outputs = _job_outputs(logs)
    return (Stream("", tuple(outputs) or (logs / "rank-0.log",)),)


def _job_outputs(logs: Path) -> list[Path]:
    """The output files of jobs, oldest first: SLURM gives later jobs higher numbers."""
    names = logs.iterdir() if logs.is_dir() else iter(())
    found = [(int(match[1]), path) for path in names if (match := _JOB_OUTPUT.match(path.name))]
    return [path for _, path in sorted(found)]


def _num_ranks(run_dir: Path) -> int | None:
    """The largest number of ranks that the run had or is to have; None if it is not known."""
    events = read_events(run_dir / ATTEMPTS_FILE)
    counts = [whole(event.get("world_size")) for event in events if event.get("event") == "start"]
    try:
        record = load_job(run_dir)
    except (ValueError, OSError):
        record = None
    counts += [None if record is None else record.world_size]
    return max((count for count in counts if count), default=None)


def _ranks_on(run_dir: Path, node: str) -> list[int]:
    problems: list[str] = []
    state = read_supervisor(run_dir, problems)
    if state is None:
        why = problems[0] if problems else "there is no supervisor.json"
        raise NoLogError(f"{run_dir}: which ranks are on node {node} is not known: {why}")
    found = next((each for each in state.nodes if each.name == node), None)
    if found is None:
        nodes = compress_names([each.name for each in state.nodes]) or "none"
        raise NoLogError(f"{run_dir}: no node {node}; its nodes are {nodes}")
    ranks = ranks_of(found)
    if not ranks:
        raise NoLogError(
            f"{run_dir}: node {node} is {found.state.replace('_', ' ')} and has no ranks now"
        )
    return ranks


def read_tail(files: Sequence[Path], lines: int) -> list[str]:
    """Reads the last lines of files that continue one another.

    Args:
        files: Oldest first; those that do not exist are left out.
        lines: How many lines, at most.
    """
    found: list[str] = []
    for file in reversed(files):
        if len(found) >= lines:
            break
        found = [*_last_lines(file, lines - len(found)), *found]
    return found


def _last_lines(file: Path, count: int) -> list[str]:
    try:
        with file.open("rb") as opened:
            begin, data = opened.seek(0, os.SEEK_END), b""
            while begin > 0 and data.count(b"\n") <= count:
                size = min(_BLOCK_BYTES, begin)
                begin -= size
                opened.seek(begin)
                data = opened.read(size) + data
    except FileNotFoundError:
        return []
    return [_text(line) for line in data.splitlines()[-count:]] if count > 0 else []


@dataclass(slots=True)
class Follower:
    """Reads the lines that are added to streams, and to files that appear later."""

    find: Callable[[], Sequence[Stream]]
    """Finds the streams; called again and again, because jobs and ranks change."""
    _offsets: dict[Path, int] = field(default_factory=dict)
    _begun: bool = False

    def begin(self, logs: Path) -> None:
        """Skips what is in the files of the folder now, also in those that are not shown yet."""
        self._offsets = {file: _size(file) for file in logs.glob("*") if file.is_file()}
        self._begun = True

    def read_new(self) -> Iterator[tuple[str, str]]:
        """Yields label and text of each complete line that was added since the last call."""
        assert self._begun
        for stream in self.find():
            for file in stream.files:
                for line in self._read(file):
                    yield stream.label, line

    def _read(self, file: Path) -> Iterator[str]:
        offset = self._offsets.setdefault(file, 0)
        size = _size(file)
        if size < offset:
            offset = 0  # The file was replaced.
        if size == offset:
            return
        with file.open("rb") as opened:
            opened.seek(offset)
            while (line := opened.readline()).endswith(b"\n"):
                offset += len(line)
                self._offsets[file] = offset
                yield _text(line)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace").rstrip("\r\n")
