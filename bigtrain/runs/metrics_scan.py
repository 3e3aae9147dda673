"""Reads what a run's status needs from ``metrics.jsonl``, which may have millions of lines.

There are two functions for the seconds of all steps. `scan_metrics` reads every line once, with
memory for one line. `sample_metrics` reads a part of the file: by bisection it finds the first and
the last line of each attempt, so the number of its steps and the time that they took are exact, and
it reads some of the steps after a checkpoint or a validation. It estimates the duration of a step,
of a wait for a save and of a validation.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bigtrain.runs.goodput import AttemptSeconds

Line = dict[str, Any]

_TAIL_BYTES = 2**19
_BLOCK_BYTES = 2**15
SAMPLED_BYTES = 2**23
"""About how much of a larger file `sample_metrics` reads."""
_SAMPLED_WAITS = 100
"""About how many saves, and how many validations, `sample_metrics` looks up."""


@dataclass(frozen=True, slots=True)
class Periods:
    """How often a run saves and validates, in steps."""

    checkpoint: int | None = None
    validation: int | None = None


@dataclass(frozen=True, slots=True)
class MetricsSums:
    """The seconds of each attempt, and how much of the file they come from."""

    attempts: Mapping[int, AttemptSeconds]
    share_read: float
    """1.0 if every line was read; else the seconds are estimates."""


def read_newest_lines(file: Path, *, limit_bytes: int = _TAIL_BYTES) -> list[Line]:
    """Reads the complete lines at the end of the file.

    Args:
        file: A ``metrics.jsonl``.
        limit_bytes: How many bytes to read at most.

    Returns:
        The lines in order; empty if there is no file.
    """
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, os.SEEK_END)
            begin = max(0, size - limit_bytes)
            return [line for _, line in _lines_between(opened, begin, size)]
    except FileNotFoundError:
        return []


def scan_metrics(file: Path, last_that_counts: Mapping[int, int]) -> MetricsSums:
    """Sums up the seconds of each attempt in one pass.

    Args:
        file: A ``metrics.jsonl``; it may be absent.
        last_that_counts: The last step that counts of each attempt that lost steps.
    """
    sums: dict[int, _AttemptSums] = {}
    try:
        with file.open("rb") as opened:
            for line in map(_parse, opened):
                if line is not None:
                    number = line["attempt"]
                    if number not in sums:
                        sums[number] = _AttemptSums(last_that_counts.get(number))
                    sums[number].add(line)
    except FileNotFoundError:
        pass
    return MetricsSums({number: each.seconds for number, each in sums.items()}, 1.0)


def sample_metrics(
    file: Path,
    last_that_counts: Mapping[int, int],
    *,
    periods: Periods = Periods(),
    sampled_bytes: int = SAMPLED_BYTES,
    block_bytes: int = _BLOCK_BYTES,
) -> MetricsSums:
    """Estimates what `scan_metrics` sums up from a part of the file; reads a small file completely.

    Args:
        file: A ``metrics.jsonl``; it may be absent.
        last_that_counts: The last step that counts of each attempt that lost steps.
        periods: How often the run saves and validates.
        sampled_bytes: About how many bytes to read.
        block_bytes: Size of a block.
    """
    size = file.stat().st_size if file.exists() else 0
    if size <= 3 * sampled_bytes:
        return scan_metrics(file, last_that_counts)
    attempts, bytes_read = {}, 0
    with file.open("rb") as opened:
        for number, begin, end in _ranges(opened, size):
            sums = _AttemptSums(last_that_counts.get(number))
            count = max(4, (end - begin) * sampled_bytes // size // block_bytes)
            is_whole = end - begin <= 2 * count * block_bytes
            blocks = [(begin, end)] if is_whole else _spread(begin, end, count, block_bytes)
            for start, stop in blocks:
                bytes_read += stop - start
                for _, line in _lines_between(opened, start, stop):
                    if line["attempt"] == number:
                        sums.add(line)
            if not is_whole:
                waits = max(4, _SAMPLED_WAITS * (end - begin) // size)
                for name in ("checkpoint", "validation"):
                    every = getattr(periods, name)
                    if every is not None:
                        found = _lines_after(opened, begin, end, sums.steps_after(every, waits))
                        sums.waits[name] = [_number(line, f"{name}_seconds") for line in found]
                sums.extrapolate(periods)
            attempts[number] = sums.seconds
    return MetricsSums(attempts, min(1.0, bytes_read / size))


class _AttemptSums:
    """Adds up the lines of one attempt, in order."""

    def __init__(self, last_that_counts: int | None) -> None:
        self.seconds = AttemptSeconds()
        self._last_that_counts = last_that_counts
        self._first_step = self._last_step = 0
        self._num_steps = 0
        self.waits: dict[str, list[float]] = {}
        """Seconds of some of the waits of a kind, if they were looked up."""

    def add(self, line: Line) -> None:
        """Adds one line."""
        sums, step = self.seconds, line.get("step")
        if not isinstance(step, int):
            return
        match line.get("split"):
            case "train":
                self._add_step(line, step)
            case "checkpoint" if step == self._last_step:
                sums.last_checkpoint += _number(line, "stall_seconds")
            case "validation" if step == self._last_step and sums.last is not None:
                if (time := _time(line)) is not None:
                    sums.last_validation = max(0.0, time - sums.last)

    def _add_step(self, line: Line, step: int) -> None:
        sums, seconds = self.seconds, _number(line, "step_seconds")
        counts = self._last_that_counts is None or step <= self._last_that_counts
        if not counts:
            sums.recomputed += seconds
        elif line.get("skipped"):
            sums.skipped += seconds
        else:
            sums.steps += seconds
        sums.checkpoint += _number(line, "checkpoint_seconds")
        sums.validation += _number(line, "validation_seconds")
        sums.last_checkpoint = sums.last_validation = 0.0
        if (time := _time(line)) is not None:
            if not self._num_steps:
                sums.first = time - seconds
            sums.last = time
        self._first_step = step if not self._num_steps else self._first_step
        self._last_step = step
        self._num_steps += 1

    def steps_after(self, every: int, count: int) -> list[int]:
        """At most ``count`` steps, evenly spread, that follow a multiple of ``every``."""
        first, last = self._multiples(every)
        numbers = range(first, last + 1, max(1, (last - first + 1) // count))
        return [number * every + 1 for number in numbers]

    def extrapolate(self, periods: Periods) -> None:
        """Scales the sums of some lines to all steps from the first to the last, which were read.

        Steps that do not count are taken to be as long as the others.
        """
        sums, steps = self.seconds, self._last_step - self._first_step + 1
        if not self._num_steps:
            return
        counted = steps
        if self._last_that_counts is not None:
            counted = min(max(self._last_that_counts - self._first_step + 1, 0), steps)
        scale = steps / self._num_steps
        per_step = (sums.steps + sums.skipped + sums.recomputed) / self._num_steps
        sums.skipped = min(sums.skipped * scale, per_step * counted)
        sums.steps = per_step * counted - sums.skipped
        sums.recomputed = per_step * (steps - counted)
        for name in ("checkpoint", "validation"):
            waits, every = self.waits.get(name), getattr(periods, name)
            total = getattr(sums, name) * scale
            if waits and every is not None:
                first, last = self._multiples(every)
                total = sum(waits) / len(waits) * (last - first + 1)
            setattr(sums, name, total)
        self._fit_waits(per_step * steps)

    def _fit_waits(self, step_seconds: float) -> None:
        """Reduces the waits to the time that the steps leave between the first and the last."""
        sums = self.seconds
        waits = sums.checkpoint + sums.validation
        if sums.first is None or sums.last is None or not waits:
            return
        scale = min(1.0, max(0.0, sums.last - sums.first - step_seconds) / waits)
        sums.checkpoint *= scale
        sums.validation *= scale

    def _multiples(self, every: int) -> tuple[int, int]:
        """The first and the last number whose multiple of ``every`` has a step after it."""
        return -(-self._first_step // every), (self._last_step - 1) // every


def _ranges(file: IO[bytes], size: int) -> Iterator[tuple[int, int, int]]:
    """Yields each attempt's number, the offset of its first line and the end of its last.

    The lines of an attempt follow one another: one process at a time writes the file.
    """
    begin, at = _line_at(file, 0, size), 0
    while begin is not None:
        at, line = begin
        after = _first_after(file, at, size, line["attempt"])
        yield line["attempt"], at, size if after is None else after[0]
        begin = after


def _first_after(file: IO[bytes], begin: int, size: int, attempt: int) -> tuple[int, Line] | None:
    """The first line of another attempt after ``begin``, and its offset; None if there is none."""
    low, high = begin, size  # The line at low is of the attempt; none at high or later is.
    found: tuple[int, Line] | None = None
    while high - low > 1:
        middle = (low + high) // 2
        line = _line_at(file, middle, size)
        if line is not None and line[1]["attempt"] == attempt:
            low = middle
        else:
            high, found = middle, line
    return found


def _lines_after(file: IO[bytes], begin: int, end: int, steps: Iterable[int]) -> Iterator[Line]:
    """Yields the lines of these steps of one attempt, which is stored from ``begin`` to ``end``."""
    for step in steps:
        low, high = begin, end  # The line at low is of an earlier step; those from high on are not.
        while high - low > 1:
            middle = (low + high) // 2
            line = _line_at(file, middle, end)
            is_earlier = line is not None and int(line[1].get("step", step)) < step
            low, high = (middle, high) if is_earlier else (low, middle)
        for _, line_of_step in _lines_between(file, high, end):
            if line_of_step.get("split") == "train":
                if line_of_step.get("step") == step:
                    yield line_of_step
                break


def _line_at(file: IO[bytes], offset: int, size: int) -> tuple[int, Line] | None:
    """The first complete line that begins at ``offset`` or later, and where it begins."""
    return next(_lines_between(file, offset, size), None)


def _lines_between(file: IO[bytes], begin: int, end: int) -> Iterator[tuple[int, Line]]:
    """Yields the complete lines that begin between two offsets, each with its offset."""
    file.seek(max(0, begin - 1))
    if begin:
        file.readline()  # Ends at begin if a line begins there.
    while (offset := file.tell()) < end:
        text = file.readline()
        if not text.endswith(b"\n"):
            return
        line = _parse(text)
        if line is not None:
            yield offset, line


def _spread(begin: int, end: int, count: int, size: int) -> list[tuple[int, int]]:
    """Blocks evenly spread from ``begin`` to ``end``, with the first and the last bytes."""
    distance = (end - size - begin) / (count - 1)
    starts = (begin + round(number * distance) for number in range(count))
    return [(start, start + size) for start in starts]


def _parse(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    is_event = isinstance(line, dict) and isinstance(line.get("attempt"), int)
    return line if is_event else None


def _number(line: Line, name: str) -> float:
    value = line.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return max(0.0, float(value)) if is_number else 0.0  # type: ignore[arg-type]


def _time(line: Line) -> float | None:
    value = line.get("time")
    return float(value) if isinstance(value, int | float) else None
