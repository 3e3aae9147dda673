"""`bigtrain launch --cluster` on a real SLURM trains what the local launch trains."""

from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import RunConfig
from bigtrain.runs.job_file import load_job
from tests.runs import tiny_config
from tests.slurm.cluster import SlurmCluster
from tests.slurm.cluster_runs import ClusterRun, losses_of, train_locally

TWO_TENSOR_RANKS = {"tensor": 2, "device": "cpu"}
FOUR_RANKS = {"tensor": 2, "zero": 1, "device": "cpu"}


def _config(corpus: Path, runs: Path, parallel: dict[str, Any], **more: Any) -> RunConfig:
    values = {
        # One microbatch means few collectives, which take 1 to 2 ms each with gloo.
        "train": {"steps": 12, "micro_batch_size": 4, "log_every": 1},
        "validation": {"every": 12},
        "checkpoint": {"every": 6},
        "parallel": parallel,
    }
    return tiny_config(corpus, runs, **{**values, **more})


def _check_finished(run: ClusterRun, *, world_size: int, nodes: list[str]) -> None:
    record = load_job(run.folder)
    assert record is not None and record.world_size == world_size
    assert run.status()["state"] == "finished"
    (started,) = run.events("job_start")
    assert started["job"] == run.job and started["nodes"] == nodes
    assert [end["kind"] for end in run.events("attempt_end")] == ["finished"]
    assert len(run.events("start")) == 1
    assert run.cluster.state(run.job) == "COMPLETED"


@pytest.mark.parametrize(
    ("parallel", "nodes"),
    [
        pytest.param(TWO_TENSOR_RANKS, 2, id="tensor 2 on two nodes"),
        pytest.param(FOUR_RANKS, 4, id="tensor 2 and ZeRO 1 on four nodes", marks=pytest.mark.slow),
    ],
)
def test_a_job_on_several_nodes_has_the_losses_of_the_local_launch(
    cluster: SlurmCluster, corpus: Path, tmp_path: Path, parallel: dict[str, Any], nodes: int
) -> None:
    run = ClusterRun(cluster, _config(corpus, tmp_path / "runs", parallel), tmp_path, nodes=nodes)
    assert "submitted run tiny as job" in run.launch().stdout
    run.wait_end()
    _check_finished(run, world_size=nodes, nodes=list(cluster.nodes[:nodes]))
    assert run.losses() == losses_of(train_locally(run.config, nodes, tmp_path / "local"))
