"""metrics.jsonl is complete after crashes and repeated steps."""

from pathlib import Path

from bigtrain.track.metrics_file import MetricsFile, read_metrics
from bigtrain.track.tracker import Trackers


def test_the_latest_attempt_of_a_step_counts(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    for attempt, first in ((1, 1), (2, 3)):
        metrics = MetricsFile(file, attempt=attempt)
        for step in range(first, 5):
            metrics.record("train", step, {"loss": 10 * attempt + step})
    assert [line["loss"] for line in read_metrics(file, "train")] == [11, 12, 23, 24]


def test_a_truncated_line_of_a_killed_run_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    MetricsFile(file, attempt=1).record("train", 1, {"loss": 1.5})
    with file.open("a") as handle:
        handle.write('{"attempt": 1, "split": "tr')
    assert [line["loss"] for line in read_metrics(file, "train")] == [1.5]
    MetricsFile(file, attempt=2).record("train", 2, {"loss": 1.25})
    assert [line["loss"] for line in read_metrics(file, "train")] == [1.5, 1.25]


def test_each_split_is_read_separately(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(file, attempt=1)
    metrics.record("train", 1, {"loss": 1.0})
    metrics.record("validation", 1, {"loss": 2.0})
    assert [line["loss"] for line in read_metrics(file, "validation")] == [2.0]


def test_a_failing_sink_is_dropped_and_the_others_continue(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    broken, working = MetricsFile(tmp_path / "b", attempt=1), MetricsFile(file, attempt=1)
    broken.finish("closed")
    trackers = Trackers([broken, working])
    trackers.record("train", 1, {"loss": 1.0})
    trackers.record("train", 2, {"loss": 0.5})
    trackers.finish("finished")
    assert [line["loss"] for line in read_metrics(file, "train")] == [1.0, 0.5]
