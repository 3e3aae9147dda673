"""What the preflight of a job checks."""

from pathlib import Path
from typing import Any

import pytest

from bigtrain.commands.preflight_plan import preflight_plan
from bigtrain.config import RunConfig
from bigtrain.config.cluster import ClusterConfig
from bigtrain.runs.job_file import JobRecord
from launcher.preflight.preflight import PreflightPlan
from tests.runs import make_corpus, tiny_config


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("run")
    return tiny_config(make_corpus(folder), folder / "runs")


def _plan(config: RunConfig, *, nodes: int = 2, ranks: int = 8, **cluster: Any) -> PreflightPlan:
    record = JobRecord(
        scheduler="slurm",
        jobs=("1",),
        submitted="2030-01-01T00:00:00+00:00",
        host="login",
        nodes=nodes,
        spares=0,
        ranks_per_node=ranks,
        cluster=ClusterConfig(**cluster),
    )
    run = config.run_dir
    return preflight_plan(config, record, run_dir=run, log_dir=run / "logs", python="/x/python")


def test_the_gpus_of_the_profile_are_checked_and_compared_closely(config: RunConfig) -> None:
    plan = _plan(config, gpus_per_node=8)
    assert plan.arguments["gpus"] == 8
    assert plan.policy.slow_ratio == 0.7
    assert plan.ranks_per_node == 8


def test_the_rates_of_cpus_may_differ_more(config: RunConfig) -> None:
    assert _plan(config).policy.slow_ratio == 0.3


def test_the_ranks_measure_with_the_config_and_the_python_of_the_job(config: RunConfig) -> None:
    file = config.run_dir / "config-job.yaml"
    plan = _plan(config)
    assert plan.command == ("/x/python", "-m", "bigtrain.cli", "preflight-rank", str(file))
    assert plan.arguments["config"] == str(file)
    assert plan.file == config.run_dir / "preflight.json"
    assert plan.folder.is_relative_to(config.run_dir)


def test_the_ranks_of_the_checks_have_as_long_to_start_as_those_of_the_run(
    config: RunConfig,
) -> None:
    assert _plan(config, start_seconds=700).node_seconds == 700


def test_a_single_rank_is_not_measured(config: RunConfig) -> None:
    assert _plan(config, nodes=1, ranks=1).command == ()
    assert _plan(config, nodes=2, ranks=1).command != ()
    assert Path(_plan(config, nodes=1, ranks=2).command[0]) == Path("/x/python")
