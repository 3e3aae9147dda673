"""Goodput: the share of its allocated time that a run spent in steps that count, and the rest.

Pure. The times of jobs and attempts come from ``attempts.jsonl`` (`run_events`), the seconds of
steps from ``metrics.jsonl`` (`metrics_scan`). Each second of an allocation is counted once,
whatever the number of its nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from bigtrain.runs.run_events import AttemptTimes, JobTimes


class Kind(StrEnum):
    """What a second of allocated time was spent on."""

    STEPS = "steps"
    """Steps that count: the weights that the run has now contain their updates."""
    SKIPPED = "skipped updates"
    """Steps whose update the loss guard skipped."""
    RECOMPUTED = "recomputed steps"
    """Steps whose results were lost, because the run went back to an earlier checkpoint."""
    CHECKPOINT = "checkpoints"
    """Training waited for a save."""
    VALIDATION = "validation"
    START_UP = "start-up"
    """From the start of an allocation to the start of its first step."""
    RESTARTS = "failures and restarts"
    """From the last step before a failure to the first step after it, in the same allocation."""
    SHUT_DOWN = "shut-down"
    """From the last step, or the save after it, of an attempt that ended well to its job's end."""
    OTHER = "other"
    """Time that no record explains, such as work between two steps."""


@dataclass(slots=True)
class AttemptSeconds:
    """What the lines of ``metrics.jsonl`` say about one attempt; all in seconds."""

    steps: float = 0.0
    """Steps that count."""
    skipped: float = 0.0
    recomputed: float = 0.0
    checkpoint: float = 0.0
    """Waiting for saves between two of its steps."""
    validation: float = 0.0
    """Validation between two of its steps."""
    last_checkpoint: float = 0.0
    """Waiting for the save after its last step."""
    last_validation: float = 0.0
    """Validation after its last step."""
    first: float | None = None
    """When its first step began, in seconds since 1970; None if the lines have no times."""
    last: float | None = None
    """When its last step ended."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The allocated time of a run, by kind."""

    seconds: Mapping[Kind, float] = field(default_factory=dict)
    """Seconds of each kind; they add up to `allocated`."""
    queued: float = 0.0
    """Seconds between the jobs, and before the first: not allocated."""

    @property
    def allocated(self) -> float:
        """Seconds of all allocations."""
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float | None:
        """Share of the allocated time in steps that count; None if nothing was allocated."""
        return self.seconds.get(Kind.STEPS, 0.0) / self.allocated if self.allocated > 0 else None


def build_ledger(
    jobs: Sequence[JobTimes],
    attempts: Mapping[int, AttemptSeconds],
    *,
    until: float,
    submitted: float | None = None,
) -> Ledger:
    """Sums up the allocated time of a run.

    Args:
        jobs: The run's jobs, oldest first.
        attempts: What ``metrics.jsonl`` says, by the number of the attempt.
        until: End of a job that has not ended, in seconds since 1970: now, or the time of the last
            news from it.
        submitted: When the run was first submitted to a queue; None if it was not.
    """
    spans = find_spans(jobs, attempts, until=until)
    total = dict.fromkeys(Kind, 0.0)
    queued, free_since = 0.0, submitted
    for job, (begin, end) in zip(jobs, spans, strict=True):
        if job.job is not None and free_since is not None:
            queued += max(0.0, begin - free_since)
        for kind, seconds in _split(job, attempts, begin=begin, end=end).items():
            total[kind] += seconds
        free_since = end
    return Ledger(total, queued)


def find_spans(
    jobs: Sequence[JobTimes], attempts: Mapping[int, AttemptSeconds], *, until: float
) -> list[tuple[float, float]]:
    """Finds when each job had its nodes, in seconds since 1970; no span overlaps the one before it.

    Args:
        jobs: The run's jobs, oldest first.
        attempts: What ``metrics.jsonl`` says, by the number of the attempt.
        until: End of a job that has not ended.
    """
    spans: list[tuple[float, float]] = []
    for job in jobs:
        begin = _begin(job)
        if spans:  # Clocks of hosts differ.
            begin = max(begin, spans[-1][1])
        end = _end(job, attempts, until=until if job is jobs[-1] else None)
        spans.append((begin, max(begin, end)))
    return spans


def _begin(job: JobTimes) -> float:
    """When a job began; an attempt without a job began before its checkpoint was loaded."""
    if job.job is not None or not job.attempts:
        return job.began
    first = job.attempts[0]
    if first.ended is None or first.seconds is None:
        return job.began
    return min(job.began, first.ended - first.seconds)


def _end(job: JobTimes, attempts: Mapping[int, AttemptSeconds], *, until: float | None) -> float:
    """When a job ended; if that was not recorded, the time of the last news from it."""
    if job.ended is not None:
        return job.ended
    newest = job.attempts[-1] if job.attempts else None
    if job.job is None and newest is not None and newest.ended is not None:
        return newest.ended
    times = [job.last_event, until or 0.0]
    times += [attempts[each.number].last or 0.0 for each in job.attempts if each.number in attempts]
    return max(times)


def _split(
    job: JobTimes, attempts: Mapping[int, AttemptSeconds], *, begin: float, end: float
) -> dict[Kind, float]:
    """Splits the time from ``begin`` to ``end`` of one job by kind."""
    split = _Split(begin, end)
    gap = Kind.START_UP
    for number, attempt in enumerate(job.attempts):
        spent = attempts.get(attempt.number, AttemptSeconds())
        is_last = number == len(job.attempts) - 1
        ended = attempt.ended
        if ended is None:
            ended = end if is_last else (spent.last or attempt.began)
        first = attempt.began if spent.first is None else spent.first
        last = ended if spent.last is None else spent.last
        split.assign_until(first, {}, rest=gap)
        split.assign_until(
            last,
            {
                Kind.STEPS: spent.steps,
                Kind.SKIPPED: spent.skipped,
                Kind.RECOMPUTED: spent.recomputed,
                Kind.CHECKPOINT: spent.checkpoint,
                Kind.VALIDATION: spent.validation,
            },
            rest=Kind.OTHER,
        )
        after = {Kind.CHECKPOINT: spent.last_checkpoint, Kind.VALIDATION: spent.last_validation}
        split.assign_until(ended, after, rest=_after_last_step(attempt, is_last=is_last))
        gap = Kind.RESTARTS
    split.assign_until(end, {}, rest=_after_the_last(job.attempts))
    return split.seconds


def _after_last_step(attempt: AttemptTimes, *, is_last: bool) -> Kind:
    if attempt.failed:
        return Kind.RESTARTS
    if attempt.ended is None:  # It still runs, or it was killed and its end was not recorded.
        return Kind.OTHER if is_last else Kind.RESTARTS
    return Kind.SHUT_DOWN


def _after_the_last(attempts: Sequence[AttemptTimes]) -> Kind:
    if not attempts:
        return Kind.START_UP
    return Kind.RESTARTS if attempts[-1].failed else Kind.SHUT_DOWN


class _Split:
    """Assigns the time of one job to kinds, from its beginning to its end, each second once."""

    def __init__(self, begin: float, end: float) -> None:
        self._assigned_until, self._end = begin, end
        self.seconds = dict.fromkeys(Kind, 0.0)

    def assign_until(self, time: float, parts: Mapping[Kind, float], *, rest: Kind) -> None:
        """Assigns the time up to ``time`` to ``parts``, and what they leave to ``rest``.

        Clocks of hosts differ, and estimates are not exact: parts that exceed the time are reduced
        in proportion, and ``time`` is moved into the part of the job that is not assigned yet.
        """
        time = min(max(time, self._assigned_until), self._end)
        available = time - self._assigned_until
        wanted = sum(parts.values())
        scale = min(1.0, available / wanted) if wanted > 0 else 0.0
        used = 0.0
        for kind, seconds in parts.items():
            self.seconds[kind] += seconds * scale
            used += seconds * scale
        self.seconds[rest] += max(0.0, available - used)
        self._assigned_until = time
