"""Reports a hang: which ranks wait in which collective, and which did not join it.

Pure, except that source lines of the innermost frames are read.

Ranks in the same call, phase and step share one line, so that a thousand ranks fit on a screen.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from launcher.supervisor.collectives import render_collectives
from launcher.supervisor.describe import count_of, name_nodes, name_ranks
from launcher.supervisor.hangs import Hang, SilentRank
from launcher.supervisor.stack_text import StackLocation, find_location, main_stack

GROUPS = 12
"""Groups of ranks that each part of the report shows; the rest is counted."""
STACKS = 3
"""Stacks that each part of the report shows."""
_NO_PROGRESS = {"T": "stopped", "t": "stopped by a debugger", "D": "in the kernel", "Z": "ended"}
"""States of a process that cannot join a collective."""


@dataclass(frozen=True, slots=True)
class RankStacks:
    """The stacks of one rank."""

    rank: int
    node: str
    pid: int
    state: str
    """Of the process, as in /proc: R, S, D, T, …; empty if it has ended or did not answer."""
    text: str
    """What `faulthandler` wrote, or the reason why there is nothing."""
    collectives: str = ""
    """Its last collectives, as `collectives.read_collectives` reads them; empty if not known."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A rank, and where it is."""

    beat: SilentRank
    node: str
    location: StackLocation | None
    why: str
    """Why it cannot join the collective, or why its location is unknown; else empty."""
    stacks: str

    @property
    def waits(self) -> bool:
        return not self.why and self.location is not None and bool(self.location.waits_in)

    @property
    def where(self) -> str:
        return self.why or str(self.location)


def blame(hang: Hang, stacks: Sequence[RankStacks]) -> tuple[int, ...]:
    """The ranks that the others wait for.

    The first of these rules that finds a rank decides:

    1. Ranks that are stopped, have ended or give no answer.
    2. Ranks that do not wait, while others do.
    3. If ranks wait in different collectives, all but the largest group, if they are fewer than it.
       This rule is left out if a rank waits for another pipeline stage, because stages wait in
       different calls.

    Returns:
        Empty if no rule finds a rank. If all ranks wait in the same call, the cause may be the
        network, or a rank outside of their process group.
    """
    return tuple(found.beat.rank for found in _missing(_find(hang, stacks)))


def render_hang_report(hang: Hang, stacks: Sequence[RankStacks]) -> str:
    """The report: the hang in one line, ranks that did not join, ranks that wait, and stacks."""
    ranks = _find(hang, stacks)
    missing = _missing(ranks)
    others = [found for found in ranks if found not in missing]
    lines = [render_hang(hang, stacks), ""]
    if missing:
        lines += [f"Did not join ({count_of(len(missing), 'rank')}):", *_render_groups(missing), ""]
    if others:
        title = "Wait" if all(found.waits for found in others) else "Others"
        lines += [f"{title} ({count_of(len(others), 'rank')}):", *_render_groups(others), ""]
    if collectives := render_collectives({each.rank: each.collectives for each in stacks}):
        lines += ["Collectives that do not end, by process group:", *collectives, ""]
    for found in (*_examples(missing), *_examples(others)):
        where = f"rank {found.beat.rank}" + (f" on {found.node}" if found.node else "")
        lines += [f"Main thread of {where}, innermost call first:"]
        lines += [f"  {line}" for line in main_stack(found.stacks)] + [""]
    return "\n".join(lines)


def render_hang(hang: Hang, stacks: Sequence[RankStacks]) -> str:
    """The hang in one line, for `AttemptEnd.message`."""
    ranks = _find(hang, stacks)
    missing = _missing(ranks)
    text = f"no step for {hang.seconds:.0f} s (limit {hang.limit:.0f} s)"
    waiting = _largest_group([found for found in ranks if found.waits and found not in missing])
    waits = (
        f"{_name_ranks(waiting)} {_verb(waiting, 'wait')} in {waiting[0].where}" if waiting else ""
    )
    if not missing:
        return f"{text}; {waits or 'no rank waits in a collective'}"
    worst = _largest_group(missing)
    never = f"{_name_ranks(missing)} did not join"
    if len(worst) == len(missing):
        never += f" ({worst[0].where})"
    return f"{text}; {never}; {waits}" if waits else f"{text}; {never}"


def _find(hang: Hang, stacks: Sequence[RankStacks]) -> list[_Found]:
    answers = {each.rank: each for each in stacks}
    return [_find_rank(beat, answers) for beat in hang.ranks]


def _find_rank(beat: SilentRank, answers: Mapping[int, RankStacks]) -> _Found:
    answer = answers.get(beat.rank)
    if answer is None:
        return _Found(beat, "", None, "its agent does not answer", "")
    location = find_location(answer.text)
    why = _NO_PROGRESS.get(answer.state, "")
    if location is None:
        reason = answer.text.strip() or "no answer"
        why = f"{why}: {reason}" if why and why not in reason else reason
    return _Found(beat, answer.node, location, why, answer.text)


def _missing(ranks: Sequence[_Found]) -> list[_Found]:
    unable = [found for found in ranks if found.why]
    if unable:
        return unable
    elsewhere = [found for found in ranks if not found.waits]
    if elsewhere and len(elsewhere) < len(ranks):
        return elsewhere
    groups = _group(ranks)
    largest = _largest_group(ranks)
    if len(groups) > 1 and not elsewhere and not any(_is_between_stages(f) for f in ranks):
        fewer = [found for found in ranks if found not in largest]
        return fewer if len(fewer) < len(largest) else []
    return []


def _is_between_stages(found: _Found) -> bool:
    return found.location is not None and found.location.waits_in.startswith(("send_", "recv"))


def _group(ranks: Iterable[_Found]) -> dict[tuple[str, str, int], list[_Found]]:
    groups = defaultdict(list)
    for found in ranks:
        groups[found.where, found.beat.phase, found.beat.step].append(found)
    return groups


def _largest_group(ranks: Iterable[_Found]) -> list[_Found]:
    return max(_group(ranks).values(), key=len, default=[])


def _render_groups(ranks: Sequence[_Found]) -> list[str]:
    groups = sorted(_group(ranks).items(), key=lambda item: (-len(item[1]), item[1][0].beat.rank))
    lines = []
    for (where, phase, step), members in groups[:GROUPS]:
        nodes = name_nodes(list(dict.fromkeys(found.node for found in members if found.node)))
        silence = max(found.beat.seconds for found in members)
        lines.append(
            f"  {_name_ranks(members)}"
            + (f" on {nodes}" if nodes else "")
            + f": {where}; {phase}, step {step}, silent for {silence:.0f} s"
        )
    if len(groups) > GROUPS:
        rest = sum(len(members) for _, members in groups[GROUPS:])
        lines.append(f"  {count_of(rest, 'more rank')} in {len(groups) - GROUPS} other groups")
    return lines


def _examples(ranks: Sequence[_Found]) -> list[_Found]:
    """One rank of each of the largest groups that have stacks."""
    groups = sorted(_group(ranks).values(), key=len, reverse=True)
    return [members[0] for members in groups if members[0].location is not None][:STACKS]


def _name_ranks(ranks: Sequence[_Found]) -> str:
    return name_ranks(found.beat.rank for found in ranks)


def _verb(ranks: Sequence[_Found], verb: str) -> str:
    return f"{verb}s" if len(ranks) == 1 else verb
