"""Notices that a run hangs, from the heartbeats of its ranks. Pure: the caller gives the time.

Ranks that train wait for each other in every step, so one rank that stands still stops all others
within a step. A run hangs when no rank has made progress for too long; how long that is depends on
what the ranks do. While a rank does something of unknown duration (it starts, connects, loads,
takes its first steps, which compile and allocate, validates or saves), the limit is
``start_seconds``. When all ranks train, it is ``hang_seconds``, or ten times the median step if
that is longer.
"""

from collections import deque
from dataclasses import dataclass
from statistics import median

FIRST_STEPS = 3
"""Steps at the beginning of an attempt that may take as long as the start."""
MEDIAN_STEPS = 10.0
"""Multiple of the median step from which on a step takes too long."""
RECENT_STEPS = 50


@dataclass(frozen=True, slots=True)
class SilentRank:
    """What a rank of a run that hangs last reported."""

    rank: int
    phase: str
    step: int
    seconds: float
    """Since its newest heartbeat."""


@dataclass(frozen=True, slots=True)
class Hang:
    """A run that hangs."""

    seconds: float
    """Since the newest progress of any rank."""
    limit: float
    """Seconds without progress that were allowed."""
    ranks: tuple[SilentRank, ...]
    """All ranks, in order."""

    @property
    def step(self) -> int:
        """The newest step that a rank completed."""
        return max((rank.step for rank in self.ranks), default=0)


@dataclass(slots=True)
class _Beat:
    phase: str
    step: int
    time: float


class HangWatch:
    """Follows the ranks of one attempt; make a new one for the next attempt."""

    def __init__(self, hang_seconds: float, start_seconds: float) -> None:
        """Knows no rank yet.

        Args:
            hang_seconds: Limit for a step, if ten times the median step is not longer.
            start_seconds: Limit for everything else that a rank does between two heartbeats.
        """
        self._hang_seconds, self._start_seconds = hang_seconds, start_seconds
        self._beats: dict[int, _Beat] = {}
        self._not_training: set[int] = set()
        self._first_step: int | None = None
        self._newest_step = -1
        self._progress = 0.0
        self._step_seconds: deque[float] = deque(maxlen=RECENT_STEPS)

    def observe(self, rank: int, phase: str, step: int, seconds: float | None, now: float) -> None:
        """Adds a heartbeat. Call it for each rank when its process starts (phase ``start``), and
        then for each heartbeat that is new, not for one that is reported again.

        Args:
            rank: The rank.
            phase: What the rank does: a value of `bigtrain.health.heartbeat.Phase`.
            step: Steps that the rank has completed.
            seconds: Duration of the newest step, if there is one.
            now: When the heartbeat came, on the same clock as for `hung`.
        """
        self._beats[rank] = _Beat(phase, step, now)
        self._progress = now
        if phase != "train":
            self._not_training.add(rank)
            return
        self._not_training.discard(rank)
        if self._first_step is None:
            self._first_step = self._newest_step = step
        if step > self._newest_step:
            self._newest_step = step
            if seconds is not None and step - self._first_step > FIRST_STEPS:
                self._step_seconds.append(seconds)

    def forget(self, rank: int) -> None:
        """Leaves out a rank whose process has ended."""
        self._beats.pop(rank, None)
        self._not_training.discard(rank)

    def hung(self, now: float) -> Hang | None:
        """The hang, if no rank has made progress for longer than allowed; None otherwise."""
        silence, limit = now - self._progress, self._limit
        if not self._beats or silence <= limit:
            return None
        ranks = (
            SilentRank(rank, beat.phase, beat.step, now - beat.time)
            for rank, beat in sorted(self._beats.items())
        )
        return Hang(silence, limit, tuple(ranks))

    @property
    def _took_first_steps(self) -> bool:
        return self._first_step is not None and self._newest_step - self._first_step >= FIRST_STEPS

    @property
    def _limit(self) -> float:
        if self._not_training or not self._took_first_steps:
            return self._start_seconds
        usual = median(self._step_seconds) if self._step_seconds else 0.0
        return max(self._hang_seconds, MEDIAN_STEPS * usual)
