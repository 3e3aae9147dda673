"""A real run on two nodes of a supervised job: the losses of a local launch, also after a death."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bigtrain.commands.local_launch import launch_locally
from bigtrain.config import RunConfig, render_config
from bigtrain.runs.supervised_run import SupervisedTraining
from bigtrain.track.json_lines import read_lines
from bigtrain.track.metrics_file import read_metrics
from launcher.supervisor.hosts_job import HostsJob
from launcher.supervisor.job_settings import JobSettings
from launcher.supervisor.supervisor import Supervisor
from tests.launcher.supervisor.fake_training import make_cluster
from tests.launcher.supervisor.local_starter import LocalStarter
from tests.runs import tiny_config


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def _config(corpus: Path, runs: Path) -> RunConfig:
    # One microbatch means few collectives, which take 1 to 2 ms each with gloo.
    return tiny_config(corpus, runs, train={"micro_batch_size": 4, "steps": 40})


def _losses(config: RunConfig) -> dict[int, float]:
    return {each["step"]: each["loss"] for each in read_metrics(_metrics(config), "train")}


def _metrics(config: RunConfig) -> Path:
    return config.run_dir / "metrics.jsonl"


def _supervise(
    config: RunConfig, nodes: tuple[str, ...], during: Callable[[LocalStarter], None]
) -> tuple[int, list[dict]]:
    """Runs a config on two of the nodes; returns the exit code and the events of the run."""
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "config-job.yaml").write_text(render_config(config))
    run = SupervisedTraining(config.run_dir, config_name="config-job.yaml", python=sys.executable)
    settings = JobSettings(
        cluster=make_cluster(), ranks_per_node=1, world_size=2, world_sizes=(2, 1)
    )
    starter = LocalStarter(nodes, grace_seconds=20)
    supervisor = Supervisor(settings, run, HostsJob(nodes), starter)

    async def main() -> int:
        job = asyncio.create_task(supervisor.supervise())
        await asyncio.to_thread(during, starter)
        return await job

    return asyncio.run(main()), list(read_lines(config.run_dir / "attempts.jsonl"))


def _wait_for_step(config: RunConfig, step: int) -> None:
    deadline = time.monotonic() + 120
    while not _metrics(config).exists() or max(_losses(config), default=0) < step:
        assert time.monotonic() < deadline, f"step {step} was not reached"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_on_two_nodes_survives_a_killed_rank_and_has_the_losses_of_a_local_launch(
    corpus: Path, tmp_path: Path
) -> None:
    local = _config(corpus, tmp_path / "local")
    assert launch_locally(local, processes=2, accepted=[]) == 0
    config = _config(corpus, tmp_path / "cluster")

    def kill_rank_zero(_: LocalStarter) -> None:
        _wait_for_step(config, 25)
        events = list(read_lines(config.run_dir / "attempts.jsonl"))
        start = next(event for event in events if event["event"] == "start")
        os.kill(start["process"], signal.SIGKILL)

    exit_code, events = _supervise(config, ("n1", "n2"), kill_rank_zero)
    assert exit_code == 0
    assert _losses(config) == _losses(local)
    of_attempt = ["start", "end", "attempt_end", "decision"]
    names = [event["event"] for event in events]
    assert names == ["job_start", *of_attempt, *of_attempt, "job_end"]
    failed = events[3]
    assert (failed["kind"], failed["rank"], failed["nodes"]) == ("rank_failed", 0, ["n1"])
    assert (failed["attempt"], failed["started_at_step"], failed["saved_step"]) == (1, 0, 20)
    assert events[2]["reason"].startswith("rank 0 failed first: killed by SIGKILL")
    assert json.loads((config.run_dir / "status.json").read_text())["state"] == "finished"
    assert not list(config.run_dir.glob("config-launch-*"))


@pytest.mark.slow
def test_a_run_continues_on_a_spare_node_with_the_losses_of_a_local_launch(
    corpus: Path, tmp_path: Path
) -> None:
    local = _config(corpus, tmp_path / "local")
    assert launch_locally(local, processes=2, accepted=[]) == 0
    config = _config(corpus, tmp_path / "cluster")

    def kill_node(starter: LocalStarter) -> None:
        _wait_for_step(config, 15)
        starter.agents["n1", 0].kill()

    exit_code, events = _supervise(config, ("n1", "n2", "n3"), kill_node)
    assert exit_code == 0
    assert _losses(config) == _losses(local)
    ends = [event for event in events if event["event"] == "attempt_end"]
    assert [(each["kind"], each["nodes"]) for each in ends] == (
        [("node_lost", ["n1"]), ("finished", [])]
    )
