"""metrics.jsonl is summed up in one pass, or estimated from a small part of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from bigtrain.runs.metrics_scan import (
    Periods,
    read_newest_lines,
    sample_metrics,
    scan_metrics,
)


def _step(step: int, *, attempt: int = 1, seconds: float = 1.0, **values: Any) -> dict[str, Any]:
    line = {"attempt": attempt, "split": "train", "step": step, "step_seconds": seconds}
    return {**line, **values}


def _write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_each_step_is_counted_by_what_became_of_it(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "metrics.jsonl",
        _step(1, seconds=3.0, time=103.0),
        _step(2, seconds=2.0, skipped=1, time=105.5),
        {"attempt": 1, "split": "validation", "step": 2, "loss": 1.0, "time": 107.5},
        {"attempt": 1, "split": "checkpoint", "step": 2, "stall_seconds": 0.5, "time": 108.0},
        _step(3, seconds=4.0, validation_seconds=2.0, checkpoint_seconds=0.5, time=112.0),
        _step(3, attempt=2, seconds=5.0, time=205.0),
        {"attempt": 2, "split": "validation", "step": 3, "loss": 1.0, "time": 207.0},
        {"attempt": 2, "split": "checkpoint", "step": 3, "stall_seconds": 1.5, "time": 209.0},
        {"attempt": 2, "split": "run", "state": "finished", "time": 209.5},
    )
    sums = scan_metrics(file, {1: 2})
    one, two = sums.attempts[1], sums.attempts[2]
    assert (one.steps, one.skipped, one.recomputed) == (3.0, 2.0, 4.0)
    assert (one.checkpoint, one.validation) == (0.5, 2.0)
    assert (one.last_checkpoint, one.last_validation) == (0.0, 0.0)
    assert (one.first, one.last) == (100.0, 112.0)
    assert (two.steps, two.last_checkpoint, two.last_validation) == (5.0, 1.5, 2.0)
    assert sums.share_read == 1.0


def test_damaged_lines_and_values_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(
        b'{"attempt": 1, "split": "train", "step": 1, "step_seconds": null}\n'
        b'\xff\xfe\n{"attempt": 1, "sp\n[1]\n{"split": "train"}\n\n'
        b'{"attempt": 1, "split": "train", "step": 2, "step_seconds": 2.0}\n'
        b'{"attempt": 1, "split": "train", "step": 3, "step_sec'
    )
    sums = scan_metrics(file, {}).attempts[1]
    assert (sums.steps, sums.first) == (2.0, None)
    assert [line["step"] for line in read_newest_lines(file)] == [1, 2]


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert scan_metrics(file, {}).attempts == sample_metrics(file, {}).attempts == {}
    assert read_newest_lines(file) == []


def test_the_newest_lines_are_read_from_the_end(tmp_path: Path) -> None:
    file = _write(tmp_path / "metrics.jsonl", *(_step(step) for step in range(1, 1001)))
    steps = [line["step"] for line in read_newest_lines(file, limit_bytes=1000)]
    assert steps == list(range(steps[0], 1001))
    assert 5 < len(steps) < 20


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three attempts and 6 MB: the first takes steps 1 to 12,000, and 5,000 of them are lost."""
    lines, time = [], 1e9
    for attempt, first, last in ((1, 1, 12_000), (2, 7_001, 7_050), (3, 7_051, 20_000)):
        time += 100
        for step in range(first, last + 1):
            seconds = 1.0 + step % 7 / 70
            saves, validates = step % 50 == 1 < step, step % 1000 == 1 < step
            waits = {"checkpoint_seconds": 4.0} if saves and step > first else {}
            waits |= {"validation_seconds": 30.0} if validates and step > first else {}
            time += seconds + sum(waits.values()) + 0.01
            lines.append(
                _step(
                    step,
                    attempt=attempt,
                    seconds=seconds,
                    time=round(time, 3),
                    **waits,
                    x="." * 100,
                )
            )
    return _write(tmp_path_factory.mktemp("metrics") / "metrics.jsonl", *lines)


def test_a_sample_agrees_with_all_lines_within_two_percent(large_file: Path) -> None:
    lost = {1: 7000}
    exact = scan_metrics(large_file, lost)
    sample = sample_metrics(
        large_file, lost, periods=Periods(50, 1000), sampled_bytes=150_000, block_bytes=2**12
    )
    assert sample.share_read < 0.1
    assert [*sample.attempts] == [*exact.attempts] == [1, 2, 3]
    for number, expected in exact.attempts.items():
        found = sample.attempts[number]
        assert (found.first, found.last) == (expected.first, expected.last)
        for name in ("steps", "recomputed", "checkpoint", "validation"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=0.02), name


def test_a_sample_without_known_periods_is_scaled_up(large_file: Path) -> None:
    sample = sample_metrics(large_file, {}, sampled_bytes=600_000, block_bytes=2**12)
    exact = scan_metrics(large_file, {}).attempts[3]
    found = sample.attempts[3]
    assert found.steps == pytest.approx(exact.steps, rel=0.02)
    assert found.checkpoint == pytest.approx(exact.checkpoint, rel=0.5)
    assert found.last is not None
    assert found.first is not None
    waits = found.checkpoint + found.validation
    assert found.steps + waits <= found.last - found.first + 1e-6


def test_a_small_file_is_read_completely(large_file: Path) -> None:
    sample = sample_metrics(large_file, {})
    assert sample.share_read == 1.0
    assert sample.attempts == scan_metrics(large_file, {}).attempts
