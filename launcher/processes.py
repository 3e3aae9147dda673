"""Reads the state of processes from /proc."""

import signal
from contextlib import suppress
from pathlib import Path


def read_state(pid: int) -> str:
    """The state letter of a process, such as S, T (stopped) or D (waits for the kernel).

    Returns:
        An empty text if there is no such process.
    """
    return _read_status(pid).get("State", "")[:1]


def handles_signal(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal, and does not block or ignore it."""
    status = _read_status(pid)
    masks = (int(status.get(name, "0"), 16) for name in ("SigCgt", "SigBlk"))
    caught, blocked = (bool(mask >> (number - 1) & 1) for mask in masks)
    return caught and not blocked


def find_parent(pid: int) -> int | None:
    """The process id of a process's parent; None if there is no such process."""
    with suppress(OSError, IndexError):
        # The command's name is in parentheses and may have any characters; state and parent follow.
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return int(text.rpartition(")")[2].split()[1])
    return None


def is_descendant(pid: int, ancestor: int) -> bool:
    """Whether a process is `ancestor`, or one of its children's children."""
    current: int | None = pid
    while current is not None and current > 1 and current != ancestor:
        current = find_parent(current)
    return current == ancestor


def _read_status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
