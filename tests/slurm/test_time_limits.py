"""Runs on a real SLURM get past the time limit of their jobs with nobody's hand."""

import re
import signal
from pathlib import Path

import pytest

from bigtrain.config import RunConfig
from bigtrain.runs.job_file import load_job
from bigtrain.runs.wandb_id import read_wandb_id
from bigtrain.runs.wandb_parts import parts_to_upload
from tests.slurm.cluster import SlurmCluster
from tests.slurm.cluster_runs import ClusterRun, train_locally
from tests.slurm.interrupted_runs import (
    WAIT_SECONDS,
    check_finished_without_repeats,
    check_saved,
    log_figures,
    long_config,
    restarts,
    supervisor_of,
    until_state,
    wait_for_event,
    wait_for_output,
    wait_for_progress,
    warn,
)
from tests.slurm.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
LONG_STEPS = 2000
"""With four microbatches a rank and step, enough that the run still trains when SLURM, which looks
at time limits every 30 s, warns it for the second time."""


def _set_time_limit(run: ClusterRun, minutes: int) -> None:
    run.cluster.run("scontrol", "update", f"JobId={run.job}", f"TimeLimit={minutes}")


def test_a_run_gets_past_two_time_limits_by_itself(
    cluster: SlurmCluster, corpus: Path, tmp_path: Path
) -> None:
    config = long_config(
        corpus,
        tmp_path / "runs",
        steps=LONG_STEPS,
        micro_batch_size=1,
        track={"wandb": "offline", "peak_tflops": 1.0},
    )
    run = ClusterRun(cluster, config, tmp_path, nodes=2, profile={"warning_seconds": 150})
    run.launch()
    job, wandb_id = run.job, read_wandb_id(run.folder)
    assert wandb_id is not None, "the id is made at submission"
    for number in (1, 2):
        wait_for_event(run, "start", number)
        wait_for_progress(run)
        _set_time_limit(run, 3)  # The limit is then nearer than the warning.
        wait_for_event(run, "job_end", number)
        assert check_saved(run, cause="time limit") < LONG_STEPS
        cluster.wait_state(job, "PENDING", timeout=WAIT_SECONDS)
        _set_time_limit(run, 30)
    run.wait_end(timeout=WAIT_SECONDS)
    log_figures(run)
    assert [end["state"] for end in run.events("job_end")] == ["requeued", "requeued", "finished"]
    assert [start["job"] for start in run.events("job_start")] == [job] * 3
    assert [start["restart_count"] for start in run.events("job_start")] == [0, 1, 2]
    assert [start["attempt"] for start in run.events("start")] == [1, 2, 3]
    assert cluster.state(job) == "COMPLETED" and restarts(run) == 2
    assert cluster.details(job)["ExitCode"] == "0:0"
    assert read_wandb_id(run.folder) == wandb_id
    parts = parts_to_upload(run.folder)
    assert parts.run_id == wandb_id and len(parts.parts) == 3
    assert all(wandb_id in part.file.name for part in parts.parts)
    check_finished_without_repeats(run, train_locally(run.config, 2, tmp_path / "local"))


def test_without_requeue_a_chain_of_jobs_continues_the_run(
    cluster: SlurmCluster, corpus: Path, tmp_path: Path, uninterrupted_long: RunConfig
) -> None:
    config = long_config(corpus, tmp_path / "runs")
    run = ClusterRun(cluster, config, tmp_path, nodes=2, profile={"restart": "chain"})
    run.launch()
    for number in (1, 2):
        wait_for_event(run, "start", number)
        wait_for_progress(run)
        job = run.events("job_start")[-1]["job"]
        (waiting,) = [each for each in cluster.alive_jobs() if each.state == "PENDING"]
        assert waiting.reason == "Dependency"
        cluster.run("scancel", "--batch", "--signal=USR2", job)
        wait_for_event(run, "job_end", number)
        check_saved(run, cause="time limit")
        cluster.wait_state(job, "COMPLETED", timeout=WAIT_SECONDS)
        assert len([each for each in cluster.alive_jobs() if each.state == "PENDING"]) <= 1
    run.wait_end(timeout=WAIT_SECONDS)
    log_figures(run)
    jobs = [start["job"] for start in run.events("job_start")]
    assert len(set(jobs)) == 3
    # Jobs of earlier tests, which have lower numbers, may still be in the controller's memory.
    states = {each.id: each.state for each in cluster.jobs() if int(each.id) >= int(run.job)}
    assert [states.pop(each) for each in jobs] == ["COMPLETED"] * 3
    assert list(states.values()) == ["CANCELLED"]  # The last successor.
    check_finished_without_repeats(run, uninterrupted_long)


def test_a_run_that_nothing_requeues_saves_and_says_how_to_go_on(
    cluster: SlurmCluster, corpus: Path, tmp_path: Path, uninterrupted_long: RunConfig
) -> None:
    config = long_config(corpus, tmp_path / "runs")
    run = ClusterRun(cluster, config, tmp_path, nodes=2, profile={"restart": "none"})
    run.launch()
    wait_for_progress(run)
    job = run.job
    warn(run)
    run.wait_end("stopped", timeout=WAIT_SECONDS)
    check_saved(run, cause="time limit")
    assert cluster.state(job) == "COMPLETED" and cluster.details(job)["ExitCode"] == "0:0"
    assert run.status()["state"] == "stopped"
    assert re.search(r"`bigtrain requeue \S+` continues the run", run.output())
    run.bigtrain("requeue", str(run.folder))
    wait_for_event(run, "job_start", 2)
    run.wait_end(timeout=WAIT_SECONDS)
    check_finished_without_repeats(run, uninterrupted_long)


def test_warnings_before_the_first_step_do_no_harm(
    cluster: SlurmCluster, corpus: Path, tmp_path: Path, uninterrupted_long: RunConfig
) -> None:
    config = long_config(corpus, tmp_path / "runs")
    profile = {"preflight": True, "restarts_without_progress": 9}
    run = ClusterRun(cluster, config, tmp_path, nodes=2, profile=profile)
    run.launch()
    cluster.wait_state(run.job, "RUNNING", timeout=WAIT_SECONDS)
    warn(run)  # The supervisor has not begun, and the batch shell ignores the signal.
    wait_for_output(run, "starting the agents")
    warn(run)
    wait_for_event(run, "job_end", 1)
    wait_for_event(run, "job_start", 2)
    wait_until(until_state(run, "preflight"), WAIT_SECONDS, run.describe)
    warn(run)
    wait_for_event(run, "job_end", 2)
    wait_for_event(run, "job_start", 3)
    wait_for_output(run, "starting 2 ranks")
    warn(run)
    wait_for_event(run, "job_end", 3)
    loads = run.output().count(" ranks: tensor")  # What rank 0 writes before it loads.
    wait_for_output(run, " ranks: tensor", loads + 1)
    warn(run)
    wait_for_event(run, "job_end", 4)
    run.wait_end(timeout=2 * WAIT_SECONDS)
    log_figures(run)
    assert [end["state"] for end in run.events("job_end")] == [*["requeued"] * 4, "finished"]
    assert {end["stop_cause"] for end in run.events("attempt_end")[:-1]} == {"time limit"}
    assert not (run.folder.parent / "excluded-nodes.json").exists()
    check_finished_without_repeats(run, uninterrupted_long)


def test_two_warnings_during_saves_are_one(
    cluster: SlurmCluster, corpus: Path, tmp_path: Path
) -> None:
    steps = 60
    config = long_config(corpus, tmp_path / "runs", steps=steps, checkpoint={"every": 1})
    run = ClusterRun(cluster, config, tmp_path, nodes=2)
    run.launch()
    wait_for_progress(run, 5)
    warn(run)
    warn(run)
    wait_for_event(run, "job_end", 1)
    assert check_saved(run, cause="time limit") < steps
    run.wait_end(timeout=WAIT_SECONDS)
    log_figures(run)
    assert [end["state"] for end in run.events("job_end")] == ["requeued", "finished"]
    assert restarts(run) == 1
    check_finished_without_repeats(run, train_locally(run.config, 2, tmp_path / "local"))


def test_a_job_is_requeued_when_the_controller_is_back(
    cluster: SlurmCluster, corpus: Path, tmp_path: Path, uninterrupted_long: RunConfig
) -> None:
    run = ClusterRun(cluster, long_config(corpus, tmp_path / "runs"), tmp_path, nodes=2)
    run.launch()
    wait_for_progress(run)
    supervisor = supervisor_of(run)
    cluster.stop_controller()
    supervisor.send_signal(signal.SIGUSR2)
    wait_for_event(run, "job_end", 1)
    wait_for_output(run, "the job is not queued again yet")
    check_saved(run, cause="time limit")
    cluster.start_controller()
    wait_for_event(run, "job_start", 2)
    run.wait_end(timeout=WAIT_SECONDS)
    log_figures(run)
    record = load_job(run.folder)
    assert record is not None and len(record.jobs) == 1
    assert restarts(run) == 1 and cluster.state(run.job) == "COMPLETED"
    check_finished_without_repeats(run, uninterrupted_long)
