"""Runs on a real SLURM that lose ranks and nodes, are cancelled or run into the time limit."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import RunConfig
from tests.runs import hash_tensors, tiny_config
from tests.slurm.cluster import SlurmCluster
from tests.slurm.cluster_runs import ClusterRun, losses_of, train_locally
from tests.slurm.processes import wait_until

pytestmark = pytest.mark.slow
STEPS = 150
RECOVERY_SECONDS = 240.0


def _config(corpus: Path, runs: Path, **more: Any) -> RunConfig:
    values = {
        "train": {"steps": STEPS, "micro_batch_size": 8, "log_every": 1},
        "validation": {"every": STEPS},
        "checkpoint": {"every": 10},
        "parallel": {"tensor": 2, "device": "cpu"},
    }
    return tiny_config(corpus, runs, **{**values, **more})


@pytest.fixture(scope="module")
def uninterrupted(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The run without any fault, trained on this machine."""
    runs = tmp_path_factory.mktemp("uninterrupted")
    return train_locally(_config(corpus, runs), 2, runs)


@pytest.fixture
def launched(cluster: SlurmCluster, corpus: Path, tmp_path: Path) -> Callable[..., ClusterRun]:
    """Submits the run on two nodes and waits until it has taken 15 steps."""

    def launch(**profile: Any) -> ClusterRun:
        config = _config(corpus, tmp_path / "runs")
        run = ClusterRun(cluster, config, tmp_path, nodes=2, profile=profile)
        run.launch()
        run.wait_for_step(15, timeout=RECOVERY_SECONDS)
        return run

    return launch


def _check_same_end(run: ClusterRun, uninterrupted: RunConfig) -> None:
    """The losses of all steps and the final state equal those of the uninterrupted run."""
    assert run.losses() == losses_of(uninterrupted)
    assert _final_state(run.config) == _final_state(uninterrupted)


def _final_state(config: RunConfig) -> dict[str, str]:
    kinds = ("weight", "first_moment", "second_moment")
    return hash_tensors(config.run_dir / "checkpoints" / f"step-{STEPS:08}", kinds)


def _kinds(run: ClusterRun) -> list[str]:
    return [end["kind"] for end in run.events("attempt_end")]


def _wait_for_recovery(run: ClusterRun) -> float:
    """Waits until the second attempt has begun; returns seconds."""
    begin = time.monotonic()
    wait_until(lambda: len(run.events("start")) == 2, RECOVERY_SECONDS, run.describe)
    return time.monotonic() - begin


def test_a_killed_rank_is_started_again_in_the_same_job(
    launched: Callable[..., ClusterRun], uninterrupted: RunConfig
) -> None:
    run = launched()
    node = run.node_of(1)
    run.ranks()[1].send_signal(signal.SIGKILL)
    _wait_for_recovery(run)
    run.wait_end(timeout=RECOVERY_SECONDS)
    assert _kinds(run) == ["rank_failed", "finished"]
    failed = run.events("attempt_end")[0]
    assert failed["rank"] == 1 and failed["nodes"] == [node]
    assert len(run.events("job_start")) == 1
    _check_same_end(run, uninterrupted)


def test_a_lost_node_is_replaced_by_the_spare(
    launched: Callable[..., ClusterRun], uninterrupted: RunConfig
) -> None:
    run = launched(spares=1)
    run.cluster.kill_node("n2")
    _wait_for_recovery(run)
    run.wait_end(timeout=RECOVERY_SECONDS)
    assert _kinds(run) == ["node_lost", "finished"]
    assert run.events("attempt_end")[0]["nodes"] == ["n2"]
    assert run.events("decision")[0]["nodes"] == ["n1", "n3"]
    assert len(run.events("job_start")) == 1
    _check_same_end(run, uninterrupted)


def test_a_run_whose_batch_host_is_lost_continues_in_the_queue(
    launched: Callable[..., ClusterRun], uninterrupted: RunConfig
) -> None:
    run = launched()
    run.cluster.kill_node("n1")
    wait_until(lambda: len(run.events("job_start")) == 2, RECOVERY_SECONDS, run.describe)
    run.wait_end(timeout=RECOVERY_SECONDS)
    assert "n1" not in run.events("job_start")[1]["nodes"]
    _check_same_end(run, uninterrupted)


def test_a_cancelled_job_saves_and_is_not_requeued(launched: Callable[..., ClusterRun]) -> None:
    run = launched()
    run.cluster.run("scancel", run.job)
    run.wait_end("stopped", timeout=RECOVERY_SECONDS)
    assert _kinds(run) == ["stopped"]
    (end,) = run.events("attempt_end")
    assert end["stop_cause"] == "user"
    assert end["saved_step"] == end["last_step"] >= 15
    assert run.cluster.state(run.job) in ("CANCELLED", "COMPLETED")


def test_a_preempted_job_saves_and_continues_after_the_other_job(
    launched: Callable[..., ClusterRun], uninterrupted: RunConfig
) -> None:
    run = launched()
    urgent = run.cluster.submit(
        "#!/bin/bash\nsleep 5\n", "--nodes=4", "--exclusive", "--partition=urgent", "-o/dev/null"
    )
    run.cluster.wait_state(urgent, "RUNNING", timeout=RECOVERY_SECONDS)
    wait_until(lambda: len(run.events("job_start")) == 2, RECOVERY_SECONDS, run.describe)
    run.wait_end(timeout=RECOVERY_SECONDS)
    assert _kinds(run) == ["stopped", "finished"]
    first = run.events("attempt_end")[0]
    assert first["stop_cause"] == "preemption"
    assert first["saved_step"] == first["last_step"]
    _check_same_end(run, uninterrupted)


def test_a_restarted_controller_does_not_disturb_a_run(
    launched: Callable[..., ClusterRun], uninterrupted: RunConfig
) -> None:
    run = launched()
    run.cluster.stop_controller()
    reached = max(run.losses())
    run.wait_for_step(reached + 20, timeout=RECOVERY_SECONDS)
    run.cluster.start_controller()
    run.wait_end(timeout=RECOVERY_SECONDS)
    assert _kinds(run) == ["finished"]
    _check_same_end(run, uninterrupted)
