"""Requests the stacks of all threads from ranks that hang.

A rank has registered `faulthandler` for SIGQUIT, which writes the stacks without running Python. A
process without that handler would be killed by the signal, so the handler is looked up first.
"""

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bigtrain.config.rank_files import collectives_file
from launcher.agent.messages import MAX_TEXT
from launcher.processes import handles_signal, read_state

WAIT_SECONDS = 3.0
COLLECTIVES_SECONDS = 2.0
"""Limit for the collectives, after that for the stacks; the supervisor waits 8 s for both."""
POLL_SECONDS = 0.05
_NO_ANSWER = {
    "T": "the process is stopped (SIGSTOP, or a debugger), so it cannot show its stacks",
    "t": "the process is stopped by a debugger, so it cannot show its stacks",
    "D": "the process waits inside the kernel (a disk, a network file system or a GPU driver)",
    "Z": "the process has ended",
    "": "the process has ended",
}


def dump_stacks(pids: Mapping[int, int], files: Mapping[int, Path]) -> dict[int, tuple[str, str]]:
    """Collects the stacks of ranks; takes at most `WAIT_SECONDS`.

    Args:
        pids: Process id of each rank.
        files: The file into which each rank writes its stacks.

    Returns:
        For each rank its state letter in /proc, and its stacks or the reason why there are none.
    """
    for file in files.values():
        collectives_file(file).unlink(missing_ok=True)
    states = {rank: read_state(pid) for rank, pid in pids.items()}
    before = {rank: _size(files[rank]) for rank in pids}
    asked = [rank for rank, pid in pids.items() if _ask(pid, states[rank])]
    texts = _wait_for_texts(asked, files, before)
    return {
        rank: (states[rank], texts.get(rank) or _explain(states[rank], rank in asked))
        for rank in pids
    }


def read_collectives(files: Mapping[int, Path]) -> dict[int, str]:
    """Collects what ranks have written about their collectives since `dump_stacks` asked them.

    Takes at most `COLLECTIVES_SECONDS`. A rank without torch, or whose interpreter is blocked,
    writes nothing.

    Args:
        files: The file into which each rank writes its stacks.
    """
    deadline, found = time.monotonic() + COLLECTIVES_SECONDS, dict[int, str]()
    while len(found) < len(files) and time.monotonic() < deadline:
        for rank in files.keys() - found.keys():
            with suppress(OSError):  # It appears complete, or not at all.
                found[rank] = collectives_file(files[rank]).read_text(errors="replace")[:MAX_TEXT]
        time.sleep(POLL_SECONDS)
    return found


def _ask(pid: int, state: str) -> bool:
    if state in _NO_ANSWER or not handles_signal(pid, signal.SIGQUIT):
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGQUIT)
        return True
    return False


def _wait_for_texts(
    asked: list[int], files: Mapping[int, Path], before: Mapping[int, int]
) -> dict[int, str]:
    """Waits until each file has grown, and has not grown since the poll before."""
    deadline = time.monotonic() + WAIT_SECONDS
    seen, waiting = dict(before), set(asked)
    while waiting and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        for rank in tuple(waiting):
            size = _size(files[rank])
            if size > before[rank] and size == seen[rank]:
                waiting.discard(rank)
            seen[rank] = size
    return {rank: _read_from(files[rank], before[rank]) for rank in asked}


def _size(file: Path) -> int:
    with suppress(OSError):
        return file.stat().st_size
    return 0


def _read_from(file: Path, start: int) -> str:
    with suppress(OSError), file.open("rb") as stacks:
        stacks.seek(start)
        return stacks.read().decode(errors="replace").strip()
    return ""


def _explain(state: str, asked: bool) -> str:
    if state in _NO_ANSWER:
        return _NO_ANSWER[state]
    if asked:
        return f"no answer within {WAIT_SECONDS:.0f} s"
    return "the process does not handle SIGQUIT yet, or does not show stacks"
