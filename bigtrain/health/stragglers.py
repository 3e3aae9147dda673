"""Finds ranks that are slow for a long time, from the seconds of each rank in each step. No torch.

In data parallel training every step waits for the slowest rank, so one slow GPU or node slows down
all. A single slow step means little: another program or a page fault may have caused it.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

SLOW_RATIO = 1.2
"""A rank is slow in a step if it takes this many times the median of all ranks."""
WINDOW = 100
"""Number of newest steps that count."""
SLOW_STEPS = 90
"""A rank is a straggler once it was slow in this many steps of the window: not in all of them,
because a short interruption of the other ranks would hide it."""
RECOVERED_STEPS = 50
"""A straggler has recovered once it was slow in fewer steps of the window than this."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """The slowest rank of one step."""

    slowest_rank: int
    seconds: float
    """Its seconds."""
    median_seconds: float
    """The median over the groups of ranks that are compared; of two groups, the faster one's."""

    @property
    def ratio(self) -> float:
        """Its seconds divided by the median."""
        return self.seconds / self.median_seconds if self.median_seconds > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Straggler:
    """Ranks that are slow for a long time."""

    ranks: tuple[int, ...]
    """Ranks that wait for each other within a step, so that only all of them can be named."""
    ratio: float
    """Their seconds divided by the median of all ranks: the median over the window."""


class StragglerRule:
    """Compares groups of ranks, and names each group that becomes slow once.

    A group that was named is named again only after it has recovered.
    """

    def __init__(self, group_of_rank: Sequence[Hashable]) -> None:
        """Starts without any step.

        Args:
            group_of_rank: For each rank, the group that it belongs to. The ranks of a group wait
                for each other during forward and backward passes.
        """
        members: dict[Hashable, list[int]] = {}
        for rank, group in enumerate(group_of_rank):
            members.setdefault(group, []).append(rank)
        self._groups = [tuple(ranks) for ranks in members.values()]
        # The ranks ordered by group, and where each group begins among them.
        self._order = np.concatenate([np.array(ranks) for ranks in self._groups])
        self._starts = np.cumsum([0, *map(len, self._groups[:-1])])
        # A ring of the newest ratios; NaN is slow in no step.
        self._ratios = np.full((WINDOW, len(self._groups)), np.nan)
        self._slow_steps = np.zeros(len(self._groups), dtype=np.int64)
        self._step = 0
        self._is_named = np.zeros(len(self._groups), dtype=bool)

    def add_step(self, seconds: Sequence[float]) -> tuple[StepTimes, list[Straggler]]:
        """Adds a step.

        Args:
            seconds: The seconds of each rank.

        Returns:
            The times of the step, and the groups that became stragglers with it.
        """
        values = np.asarray(seconds, dtype=np.float64)
        of_group = np.maximum.reduceat(values[self._order], self._starts)
        # Of an even number the lower of the two middle values: of two groups, the faster one.
        middle = (len(of_group) - 1) // 2
        median = float(np.partition(of_group, middle)[middle])
        rank = int(values.argmax())
        times = StepTimes(rank, float(values[rank]), median)
        oldest = self._ratios[self._step % WINDOW]
        self._slow_steps -= oldest > SLOW_RATIO
        oldest[:] = of_group / median if median > 0 else np.nan
        self._slow_steps += oldest > SLOW_RATIO
        self._step += 1
        return times, self._newly_slow()

    def _newly_slow(self) -> list[Straggler]:
        self._is_named &= self._slow_steps >= RECOVERED_STEPS
        found = np.flatnonzero((self._slow_steps >= SLOW_STEPS) & ~self._is_named)
        self._is_named[found] = True
        return [
            Straggler(self._groups[group], float(np.nanmedian(self._ratios[:, group])))
            for group in found
        ]
