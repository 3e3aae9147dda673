"""Describes the ends of attempts in one line each. Pure."""

from collections.abc import Iterable, Sequence

from launcher.supervisor.values import AttemptEnd, EndKind

HISTORY_LINES = 20
MESSAGE_LENGTH = 110
RANGES = 8
"""Ranges of ranks that are shown."""

_PHRASES = {
    EndKind.FINISHED: "finished",
    EndKind.STOPPED: "stopped",
    EndKind.RANK_FAILED: "a rank failed",
    EndKind.NODE_LOST: "nodes were lost",
    EndKind.HUNG: "hung",
    EndKind.DIVERGED: "the loss diverged",
    EndKind.BAD_INPUT: "bad input",
    EndKind.FILES_UNAVAILABLE: "the supervisor could not use the run folder",
    EndKind.BAD_NODES: "a node failed its check",
}


def describe_end(end: AttemptEnd) -> str:
    """What happened, where, at which step, and the message."""
    what = _PHRASES[end.kind]
    nodes = name_nodes(end.nodes)
    if end.kind is EndKind.RANK_FAILED and end.rank is not None:
        what = f"rank {end.rank} failed"
    elif end.kind is EndKind.NODE_LOST and nodes:
        what, nodes = f"{nodes} no longer answers", ""
    elif end.kind is EndKind.BAD_NODES and nodes:
        return f"{nodes} failed a check" + _render_message(end.message.removeprefix(f"{nodes}: "))
    elif end.stop_cause is not None:
        what = f"stopped by the {end.stop_cause}"
    on = f" on {nodes}" if nodes else ""
    steps = f" at step {end.last_step}"
    if end.last_step != end.saved_step:
        steps += f" (saved: {end.saved_step})"
    if end.rewound:
        steps += ", then rewound"
    return what + on + steps + _render_message(end.message)


def _render_message(message: str) -> str:
    text = message.rstrip(".")
    if len(text) > MESSAGE_LENGTH:
        text = text[:MESSAGE_LENGTH] + "…"
    return f": {text}" if text else ""


def render_history(history: Sequence[AttemptEnd]) -> list[str]:
    """One line for each attempt, oldest first; the first lines are left out if they are many."""
    lines = [
        f"attempt {number}: {describe_end(end)}" for number, end in enumerate(history, start=1)
    ]
    if len(lines) > HISTORY_LINES:
        left_out = len(lines) - HISTORY_LINES + 1
        lines = [f"({left_out} earlier attempts)", *lines[left_out:]]
    return lines


def name_nodes(nodes: Sequence[str]) -> str:
    """The names of nodes; of more than five, the first four and how many there are besides."""
    if len(nodes) <= 5:
        return ", ".join(nodes)
    return f"{', '.join(nodes[:4])} and {len(nodes) - 4} more nodes"


def name_ranks(ranks: Iterable[int]) -> str:
    """The numbers of ranks as ranges, such as ``ranks 0-6, 8 (8)``; many ranges are cut short."""
    numbers = sorted(ranks)
    starts = [n for n, rank in enumerate(numbers) if n == 0 or rank != numbers[n - 1] + 1]
    ranges = []
    for start, end in zip(starts, [*starts[1:], len(numbers)], strict=True):
        first, last = numbers[start], numbers[end - 1]
        ranges.append(f"{first}" if first == last else f"{first}-{last}")
    shown = ", ".join(ranges[:RANGES]) + (", …" if len(ranges) > RANGES else "")
    if len(numbers) == 1:
        return f"rank {shown}"
    return f"ranks {shown}" + (f" ({len(numbers)})" if len(ranges) > 1 else "")


def count_of(count: int, word: str) -> str:
    """A number with its word, such as ``3 attempts``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
