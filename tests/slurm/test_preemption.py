"""Runs on a real SLURM that other jobs push aside save, wait, and continue."""

from pathlib import Path

import pytest

from bigtrain.config import RunConfig
from tests.slurm.cluster import SlurmCluster
from tests.slurm.cluster_runs import ClusterRun
from tests.slurm.interrupted_runs import (
    WAIT_SECONDS,
    check_finished_without_repeats,
    check_saved,
    log_figures,
    long_config,
    restarts,
    wait_for_event,
    wait_for_output,
    wait_for_progress,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def _preempt(run: ClusterRun) -> str:
    """Submits a short job that takes all nodes from the run; returns its id."""
    return run.cluster.submit(
        "#!/bin/bash\nsleep 3\n", "--nodes=4", "--exclusive", "--partition=urgent", "-o/dev/null"
    )


@pytest.mark.parametrize(
    "partition",
    [
        pytest.param("main", id="SLURM would requeue the job after the grace time"),
        pytest.param("cancel", id="SLURM would cancel the job after the grace time"),
    ],
)
def test_a_preempted_run_saves_and_continues(
    cluster: SlurmCluster,
    corpus: Path,
    tmp_path: Path,
    uninterrupted_long: RunConfig,
    partition: str,
) -> None:
    config = long_config(corpus, tmp_path / "runs")
    run = ClusterRun(cluster, config, tmp_path, nodes=2, profile={"partition": partition})
    run.launch()
    job = run.job
    wait_for_progress(run)
    urgent = _preempt(run)
    wait_for_event(run, "job_end", 1)
    check_saved(run, cause="preemption")
    # The nodes are free long before the grace time is over.
    cluster.wait_state(urgent, "RUNNING", "COMPLETED", timeout=WAIT_SECONDS)
    run.wait_end(timeout=WAIT_SECONDS)
    log_figures(run)
    assert [end["state"] for end in run.events("job_end")] == ["requeued", "finished"]
    assert [start["job"] for start in run.events("job_start")] == [job] * 2
    assert restarts(run, job) == 1 and cluster.state(job) == "COMPLETED"
    check_finished_without_repeats(run, uninterrupted_long)


def test_a_preemption_while_the_agents_start_does_no_harm(
    cluster: SlurmCluster, corpus: Path, tmp_path: Path, uninterrupted_long: RunConfig
) -> None:
    run = ClusterRun(cluster, long_config(corpus, tmp_path / "runs"), tmp_path, nodes=2)
    run.launch()
    wait_for_output(run, "starting the agents")
    urgent = _preempt(run)
    wait_for_event(run, "job_end", 1)
    cluster.wait_state(urgent, "RUNNING", "COMPLETED", timeout=WAIT_SECONDS)
    run.wait_end(timeout=WAIT_SECONDS)
    assert [end["state"] for end in run.events("job_end")] == ["requeued", "finished"]
    assert run.events("attempt_end")[0]["stop_cause"] == "preemption"
    assert not (run.folder.parent / "excluded-nodes.json").exists()
    assert restarts(run) == 1 and cluster.state(run.job) == "COMPLETED"
    check_finished_without_repeats(run, uninterrupted_long)
