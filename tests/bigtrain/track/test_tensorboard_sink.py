"""TensorBoard reads each step once, whatever was resumed or rewound; no failure stops a run."""

import logging
import math
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bigtrain.track.tensorboard_sink import TensorboardTracker, open_tensorboard
from bigtrain.track.tracker import Trackers
from tests.runs import tiny_config


def _record(folder: Path, steps: range, *, attempt: int, loss: float = 1.0) -> None:
    sink = TensorboardTracker(folder, attempt=attempt, first_step=steps.start - 1)
    for step in steps:
        sink.record("train", step, {"loss": loss, "samples": 8 * step, "note": "text"})
    sink.finish("stopped")


def _points(folder: Path, tag: str = "train/loss") -> list[tuple[int, float]]:
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return [(point.step, point.value) for point in reader.Scalars(tag)]


def test_tensorboard_reads_every_number_at_its_step(tmp_path: Path) -> None:
    _record(tmp_path, range(1, 4), attempt=1)
    assert _points(tmp_path) == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert _points(tmp_path, "train/samples") == [(1, 8.0), (2, 16.0), (3, 24.0)]


def test_steps_after_the_checkpoint_that_was_resumed_are_discarded(tmp_path: Path) -> None:
    _record(tmp_path, range(1, 8), attempt=1)
    _record(tmp_path, range(4, 6), attempt=2, loss=2.0)
    assert _points(tmp_path) == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0)]


def test_attempts_are_in_order_even_if_the_clock_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _record(tmp_path, range(1, 8), attempt=9)
    monkeypatch.setattr("bigtrain.track.tensorboard_sink.time.time", lambda: 1_000.0)
    _record(tmp_path, range(4, 6), attempt=10, loss=2.0)
    assert _points(tmp_path)[3:] == [(4, 2.0), (5, 2.0)]


def test_a_killed_attempt_keeps_every_step_that_it_recorded(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from bigtrain.track.tensorboard_sink import TensorboardTracker\n"
        "sink = TensorboardTracker(Path(sys.argv[1]), attempt=1, first_step=0)\n"
        "sink.record('train', 1, {'loss': 1.5})\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=120)
    assert done.returncode == -9
    assert _points(tmp_path) == [(1, 1.5)]


def test_numbers_that_are_not_finite_or_do_not_fit_are_kept_as_such(tmp_path: Path) -> None:
    sink = TensorboardTracker(tmp_path, attempt=1, first_step=0)
    sink.record("train", 1, {"loss": math.nan, "grad_norm": math.inf, "large": -1e300})
    sink.finish("finished")
    assert math.isnan(_points(tmp_path)[0][1])
    assert _points(tmp_path, "train/grad_norm") == [(1, math.inf)]
    assert _points(tmp_path, "train/large") == [(1, -math.inf)]


def test_a_file_in_place_of_the_folder_turns_it_off_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(tmp_path, tmp_path, track={"tensorboard": True})
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "tensorboard").touch()
    assert open_tensorboard(config, config.run_dir, attempt=1, first_step=0) is None
    (line,) = caplog.messages
    assert line.startswith("TensorBoard is off for this attempt: FileExistsError")


def test_a_disk_that_becomes_full_stops_the_sink_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = TensorboardTracker(tmp_path, attempt=1, first_step=0)
    trackers = Trackers([sink])
    sink._file.close()
    with Path("/dev/full").open("wb", buffering=0) as full:
        sink._file = full
        trackers.record("train", 1, {"loss": 1.0})
        trackers.record("train", 2, {"loss": 1.0})
    (line,) = caplog.messages
    assert line == "TensorBoard stopped recording: [Errno 28] No space left on device"
    assert caplog.records[0].levelno == logging.WARNING


def test_without_the_key_nothing_is_written(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tmp_path)
    assert open_tensorboard(config, config.run_dir, attempt=1, first_step=0) is None
    assert not config.run_dir.exists()
