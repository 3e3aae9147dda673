"""`bigtrain stop`, `cancel` and `requeue`, and a user's scancel, on a real SLURM."""

from pathlib import Path

import pytest

from tests.slurm.cluster import SlurmCluster
from tests.slurm.cluster_runs import ClusterRun, train_locally
from tests.slurm.interrupted_runs import (
    WAIT_SECONDS,
    check_finished_without_repeats,
    check_saved,
    log_figures,
    long_config,
    restarts,
    wait_for_event,
    wait_for_progress,
)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_stopped_a_cancelled_and_a_killed_run_continue_only_on_request(
    cluster: SlurmCluster, corpus: Path, tmp_path: Path
) -> None:
    run = ClusterRun(cluster, long_config(corpus, tmp_path / "runs"), tmp_path, nodes=2)
    run.launch()
    jobs: list[str] = []
    # What ends the job, and SLURM's word for such a job.
    ways = (
        ("bigtrain stop", "COMPLETED"),
        ("bigtrain cancel", "CANCELLED"),
        ("scancel", "CANCELLED"),
    )
    for number, (way, state) in enumerate(ways, start=1):
        jobs.append(run.job)
        wait_for_event(run, "start", number)
        wait_for_progress(run)
        if way == "scancel":
            cluster.run("scancel", run.job)
        else:
            run.bigtrain(way.removeprefix("bigtrain "), str(run.folder))
        run.wait_end("stopped", timeout=WAIT_SECONDS)
        check_saved(run, cause="user")
        assert run.status()["state"] == "stopped"
        assert cluster.state(run.job) == state, way
        assert restarts(run) == 0, "a job that its user ends is not queued again"
        assert not (run.folder / "request.json").exists()
        run.bigtrain("requeue", str(run.folder))
    run.wait_end(timeout=WAIT_SECONDS)
    log_figures(run)
    assert len({*jobs, run.job}) == 4
    assert cluster.state(run.job) == "COMPLETED"
    check_finished_without_repeats(run, train_locally(run.config, 2, tmp_path / "local"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_cancelling_a_chain_leaves_no_job_that_waits(
    cluster: SlurmCluster, corpus: Path, tmp_path: Path
) -> None:
    config = long_config(corpus, tmp_path / "runs")
    run = ClusterRun(cluster, config, tmp_path, nodes=2, profile={"restart": "chain"})
    run.launch()
    job = run.job
    wait_for_progress(run)
    assert sorted(each.state for each in cluster.alive_jobs()) == ["PENDING", "RUNNING"]
    cluster.run("scancel", job)
    run.wait_end("stopped", timeout=WAIT_SECONDS)
    assert len(run.events("job_start")) == 1
    assert run.status()["state"] == "stopped"


def test_a_job_that_waits_is_stopped_and_queued_again(
    cluster: SlurmCluster, corpus: Path, tmp_path: Path
) -> None:
    cluster.submit("#!/bin/bash\nsleep 600\n", "--nodes=4", "--exclusive", "-o/dev/null")
    run = ClusterRun(cluster, long_config(corpus, tmp_path / "runs"), tmp_path, nodes=2)
    run.launch()
    job = run.job
    cluster.wait_state(job, "PENDING")
    assert "had not begun" in run.bigtrain("stop", str(run.folder)).stdout
    cluster.wait_state(job, "CANCELLED")
    run.bigtrain("requeue", str(run.folder))
    assert run.job != job
    cluster.wait_state(run.job, "PENDING")
    assert not (run.folder / "request.json").exists()
