"""MLflow gets each step once, in one run per run folder; no server can delay or stop a run."""

import json
import logging
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from bigtrain.config import RunConfig
from bigtrain.track import mlflow_process, process_tracker
from bigtrain.track.metrics_file import MetricsFile
from bigtrain.track.mlflow_process import MlflowBackend
from bigtrain.track.mlflow_sink import open_mlflow
from bigtrain.track.tracker import Trackers
from tests.bigtrain.track.mlflow_server import MlflowServer
from tests.runs import tiny_config


@pytest.fixture(autouse=True)
def _settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    # On a busy machine the import alone takes seconds.
    monkeypatch.setattr(process_tracker, "FINISH_SECONDS", 120.0)
    monkeypatch.setattr(process_tracker, "FAILED_FINISH_SECONDS", 120.0)
    caplog.set_level(logging.INFO)


def _attempt(
    config: RunConfig,
    steps: Sequence[int],
    *,
    attempt: int = 1,
    rewinds: int = 0,
    loss: float = 1.0,
    state: str = "finished",
    sends: bool = True,
) -> float:
    """Records steps in metrics.jsonl, and if it ``sends`` in MLflow; returns the seconds taken."""
    (config.run_dir / "logs").mkdir(parents=True, exist_ok=True)
    metrics = config.run_dir / "metrics.jsonl"
    sink = None
    if sends:
        sink = open_mlflow(
            config, config.run_dir, metrics=metrics, first_step=steps[0] - 1, rewinds=rewinds
        )
    began = time.monotonic()
    trackers = Trackers([MetricsFile(metrics, attempt=attempt), *([sink] if sink else [])])
    for step in steps:
        trackers.record("train", step, {"loss": loss, "grad_norm": float("nan"), "tokens": step})
        if step % 2 == 0:
            trackers.record("validation", step, {"loss": loss})
    trackers.finish(state)
    return time.monotonic() - began


def _config(folder: Path, uri: str | None = None) -> RunConfig:
    uri = uri or f"file://{folder}/mlruns"
    return tiny_config(folder, folder, track={"mlflow": uri, "project": "tests"})


def _runs(config: RunConfig) -> list[Any]:
    client = MlflowClient(config.track.mlflow)
    experiment = client.get_experiment_by_name("tests")
    runs = client.search_runs([experiment.experiment_id])
    return sorted(
        runs, key=lambda run: (run.info.start_time, "bigtrain.continues" in run.data.tags)
    )


def _points(config: RunConfig, run: Any, key: str = "train/loss") -> list[tuple[int, float]]:
    history = MlflowClient(config.track.mlflow).get_metric_history(run.info.run_id, key)
    return [(point.step, point.value) for point in history]


def test_every_step_the_config_and_the_end_are_in_the_mlflow_run(tmp_path: Path, caplog) -> None:
    config = _config(tmp_path)
    _attempt(config, range(1, 4))
    (run,) = _runs(config)
    assert _points(config, run) == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert _points(config, run, "validation/loss") == [(2, 1.0)]
    assert (run.info.run_name, run.info.status) == ("tiny", "FINISHED")
    assert run.data.params["optim.learning_rate"] == "0.003"
    assert (config.run_dir / "mlflow_run_id").read_text().strip() == run.info.run_id
    assert caplog.messages == [f"mlflow run {run.info.run_id} at {config.track.mlflow}"]


def test_names_that_mlflow_refuses_are_changed(tmp_path: Path) -> None:
    config = _config(tmp_path)
    names = ("epochs//data/corpus", "epochs/../a", "epochs/données:x", f"epochs/{'x' * 300}")
    (config.run_dir / "logs").mkdir(parents=True)
    sink = open_mlflow(config, config.run_dir, metrics=tmp_path / "none", first_step=0, rewinds=0)
    sink.record("train", 1, dict.fromkeys(names, 0.5))
    sink.finish("finished")
    keys = [key for key in _runs(config)[0].data.metrics if "epochs" in key]
    assert sorted(keys)[:3] == [
        "train/epochs/a",
        "train/epochs/data/corpus",
        "train/epochs/donn_es_x",
    ]
    assert len(keys) == 4


def test_a_resumed_run_continues_its_mlflow_run_without_duplicates(tmp_path: Path) -> None:
    config = _config(tmp_path)
    _attempt(config, range(1, 6), state="failed")
    assert _runs(config)[0].info.status == "FAILED"
    _attempt(config, range(4, 8), attempt=2, state="stopped")
    (run,) = _runs(config)
    assert [step for step, _ in _points(config, run)] == [1, 2, 3, 4, 5, 6, 7]
    assert [step for step, _ in _points(config, run, "validation/loss")] == [2, 4, 6]
    assert run.info.status == "KILLED"


def test_a_rewound_run_begins_a_new_mlflow_run_that_has_the_steps_before(tmp_path: Path) -> None:
    config = _config(tmp_path)
    _attempt(config, range(1, 7), loss=1.0)
    _attempt(config, range(4, 6), attempt=2, rewinds=1, loss=2.0)
    first, second = _runs(config)
    assert _points(config, second) == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0)]
    assert second.data.tags["bigtrain.continues"] == first.info.run_id
    assert first.data.tags["bigtrain.continued_by"] == second.info.run_id
    _attempt(config, range(6, 8), attempt=3, rewinds=1, loss=2.0)
    assert len(_runs(config)) == 2


def test_steps_that_mlflow_missed_are_sent_by_the_next_attempt(tmp_path: Path) -> None:
    config = _config(tmp_path)
    _attempt(config, range(1, 3))
    _attempt(config, range(3, 7), attempt=2, loss=3.0, sends=False)
    _attempt(config, range(6, 8), attempt=3, loss=4.0)
    (run,) = _runs(config)
    assert _points(config, run) == [(1, 1), (2, 1), (3, 3), (4, 3), (5, 3), (6, 4), (7, 4)]


def test_a_deleted_mlflow_run_is_replaced_by_a_complete_one(tmp_path: Path) -> None:
    config = _config(tmp_path)
    _attempt(config, range(1, 3))
    (deleted,) = _runs(config)
    MlflowClient(config.track.mlflow).delete_run(deleted.info.run_id)
    _attempt(config, range(3, 5), attempt=2)
    (run,) = _runs(config)
    assert run.info.run_id != deleted.info.run_id
    assert [step for step, _ in _points(config, run)] == [1, 2, 3, 4]


def test_a_deleted_experiment_turns_it_off_with_the_remedy(tmp_path: Path, caplog) -> None:
    config = _config(tmp_path)
    client = MlflowClient(config.track.mlflow)
    client.delete_experiment(client.create_experiment("tests"))
    _attempt(config, range(1, 3))
    (line,) = caplog.messages
    assert "the experiment 'tests' was deleted; restore it" in line


def test_a_store_that_the_package_does_not_support_turns_it_off(tmp_path: Path, caplog) -> None:
    _attempt(_config(tmp_path, "nonsense://host"), range(1, 3))
    (line,) = caplog.messages
    assert line.startswith("mlflow stopped recording: ")
    assert "nonsense://host" in line


@contextmanager
def _silent_server() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_never_answers_delays_no_step_and_the_end_only_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setattr(process_tracker, "FINISH_SECONDS", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with _silent_server() as uri:
        config = _config(tmp_path, uri)
        (config.run_dir / "logs").mkdir(parents=True)
        sink = open_mlflow(
            config, config.run_dir, metrics=tmp_path / "none", first_step=0, rewinds=0
        )
        began = time.monotonic()
        for step in range(1, 1001):
            sink.record("train", step, {"loss": 1.0})
        assert time.monotonic() - began < 2.0
        _wait_for(lambda: any("does not answer" in line for line in caplog.messages))
        began = time.monotonic()
        with pytest.raises(process_tracker.SinkError, match="mlflow did not finish within 1 s"):
            sink.finish("finished")
        assert time.monotonic() - began < 30.0


def test_points_wait_while_the_server_is_down_and_are_sent_when_it_answers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    with MlflowServer() as server:
        config = _config(tmp_path, server.uri)
        server.is_down = True
        (config.run_dir / "logs").mkdir(parents=True)
        sink = open_mlflow(
            config, config.run_dir, metrics=tmp_path / "none", first_step=0, rewinds=0
        )
        sink.record("train", 1, {"loss": 1.0})
        _wait_for(lambda: server.refused > 0)
        server.is_down = False
        sink.record("train", 2, {"loss": 2.0})
        sink.finish("finished")
        assert server.points("train/loss") == [(1, 1.0), (2, 2.0)]
        assert server.status == "FINISHED"
    assert "does not answer" in caplog.messages[0]
    assert caplog.messages[-1] == "mlflow answers again"


def test_a_refusal_of_the_server_turns_it_off_with_the_servers_reason(
    tmp_path: Path, caplog
) -> None:
    with MlflowServer() as server:
        server.refusal = (403, json.dumps({"error_code": "PERMISSION_DENIED", "message": "no way"}))
        _attempt(_config(tmp_path, server.uri), range(1, 3))
    (line,) = caplog.messages
    assert line.startswith("mlflow stopped recording: PERMISSION_DENIED: no way")


def test_many_steps_are_sent_in_few_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_process, "set_mlflow_variables", lambda: None)
    monkeypatch.setattr(mlflow_process, "SEND_SECONDS", 3600.0)
    request = {"project": "tests", "name": "tiny", "run_dir": str(tmp_path), "config": {}}
    with MlflowServer() as server:
        backend = MlflowBackend()
        more = {"uri": server.uri, "metrics": str(tmp_path / "none"), "first_step": 0}
        backend.open({**request, **more, "rewinds": 0}, lambda **_: None)
        for step in range(1, 1501):
            backend.log([{"step": step, "train/loss": 1.0}])
        assert server.batches == 0
        backend.finish("finished")
        assert [step for step, _ in server.points("train/loss")] == [*range(1, 1501)]
        assert server.batches == 3  # Of at most 1,000 points; each step also sends train/step.


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
