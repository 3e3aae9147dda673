"""Runs on a real SLURM that are cancelled, preempted, or run into the time limit."""

import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import RunConfig
from tests.runs import hash_tensors, tiny_config
from tests.slurm.cluster import SlurmCluster
from tests.slurm.cluster_runs import ClusterRun, losses_of, train_locally
from tests.slurm.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(800)]
STEPS = 150
LONG_STEPS = 2000
RECOVERY_SECONDS = 240.0
LONG_RUN_SECONDS = 600.0


def _config(corpus: Path, runs: Path, *, steps: int = STEPS) -> RunConfig:
    return tiny_config(
        corpus,
        runs,
        train={"steps": steps, "micro_batch_size": 8, "log_every": 1},
        validation={"every": steps},
        checkpoint={"every": steps // 15},
        parallel={"tensor": 2, "device": "cpu"},
    )


@pytest.fixture(scope="module")
def uninterrupted(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The run without any fault, trained on this machine."""
    runs = tmp_path_factory.mktemp("uninterrupted")
    return train_locally(_config(corpus, runs), 2, runs)


@pytest.fixture
def launched(cluster: SlurmCluster, corpus: Path, tmp_path: Path) -> Callable[..., ClusterRun]:
    """Submits the run on two nodes and waits until it has taken 15 steps."""

    def launch(*, steps: int = STEPS, **profile: Any) -> ClusterRun:
        config = _config(corpus, tmp_path / "runs", steps=steps)
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
    steps = config.train.steps
    return hash_tensors(config.run_dir / "checkpoints" / f"step-{steps:08}", kinds)


def _kinds(run: ClusterRun) -> list[str]:
    return [end["kind"] for end in run.events("attempt_end")]


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


@pytest.mark.timeout(1200)
def test_a_run_continues_by_itself_after_two_time_limits(
    launched: Callable[..., ClusterRun], corpus: Path, tmp_path: Path
) -> None:
    """Takes three to eight minutes, since SLURM looks at time limits twice a minute."""
    run = launched(steps=LONG_STEPS, warning_seconds=150)
    wandb_id = (run.folder / "wandb_id").read_text()
    for restarts in (1, 2):
        _bring_the_time_limit_near(run)
        run.cluster.wait_state(run.job, "PENDING", timeout=RECOVERY_SECONDS)
        run.cluster.run("scontrol", "update", f"JobId={run.job}", "TimeLimit=30")
        wait_until(
            lambda: len(run.events("start")) == restarts + 1,  # noqa: B023 - used at once
            RECOVERY_SECONDS,
            run.describe,
        )
    run.wait_end(timeout=LONG_RUN_SECONDS)
    assert [end["kind"] for end in run.events("attempt_end")] == ["stopped", "stopped", "finished"]
    for end in run.events("attempt_end")[:2]:
        assert end["stop_cause"] == "time limit" and end["saved_step"] == end["last_step"]
    assert [event["restart_count"] for event in run.events("job_start")] == [0, 1, 2]
    assert (run.folder / "wandb_id").read_text() == wandb_id
    runs = tmp_path / "uninterrupted"
    _check_same_end(run, train_locally(_config(corpus, runs, steps=LONG_STEPS), 2, runs))


def _bring_the_time_limit_near(run: ClusterRun) -> None:
    """Shortens the job's time limit, so that SLURM sends its warning at once."""
    started = datetime.fromisoformat(run.cluster.details(run.job)["StartTime"])
    minutes = math.ceil((datetime.now() - started).total_seconds() / 60) + 1
    run.cluster.run("scontrol", "update", f"JobId={run.job}", f"TimeLimit={minutes}")
