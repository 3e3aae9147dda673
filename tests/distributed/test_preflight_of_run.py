"""A real run with the preflight: a node that differs from the others is left, and a spare used."""

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bigtrain.commands.supervise import _preflight
from bigtrain.config import render_config
from bigtrain.runs.job_file import JobRecord
from bigtrain.runs.supervised_run import SupervisedTraining
from bigtrain.track.json_lines import read_lines
from launcher.supervisor.hosts_job import HostsJob
from launcher.supervisor.job_settings import JobSettings
from launcher.supervisor.supervisor import Supervisor
from tests.architecture.source_tree import REPOSITORY
from tests.launcher.supervisor import local_starter
from tests.launcher.supervisor.fake_training import make_cluster
from tests.launcher.supervisor.local_starter import LocalStarter
from tests.runs import tiny_config

NODES = ("n1", "n2", "n3")


@dataclass
class OneOldNode(LocalStarter):
    """Starts the agent of n2 where an old version of DeepSpeed is found."""

    old: Path = Path()

    def start_agent(self, node: str, task: int, token: str) -> subprocess.Popen[bytes]:
        path = f"{self.old}:{REPOSITORY}" if node == "n2" else str(REPOSITORY)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(local_starter, "REPOSITORY", path)
            return super().start_agent(node, task, token)


@pytest.mark.slow
def test_a_node_with_other_versions_is_left_and_the_spare_is_used(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    metadata = tmp_path / "old" / "deepspeed-0.1.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.1\n")
    config = tiny_config(corpus, tmp_path / "runs", train={"steps": 10})
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "config-job.yaml").write_text(render_config(config))
    cluster = make_cluster(hosts=list(NODES), spares=1)
    run = SupervisedTraining(config.run_dir, config_name="config-job.yaml", python=sys.executable)
    record = JobRecord(
        scheduler="hosts",
        jobs=(),
        submitted="2030-01-01T00:00:00+00:00",
        host="login",
        nodes=2,
        spares=1,
        ranks_per_node=1,
        cluster=cluster,
    )
    settings = JobSettings(cluster=cluster, ranks_per_node=1, world_size=2, world_sizes=(2, 1))
    starter = OneOldNode(NODES, grace_seconds=20, old=tmp_path / "old")
    preflight = _preflight(config, record, run)
    supervisor = Supervisor(settings, run, HostsJob(NODES), starter, preflight)
    assert asyncio.run(supervisor.supervise()) == 0

    decisions = [
        event
        for event in read_lines(config.run_dir / "attempts.jsonl")
        if event["event"] == "decision"
    ]
    assert [decision["action"] for decision in decisions] == ["restart", "end"]
    assert decisions[0]["nodes"] == ["n1", "n3"]
    assert decisions[0]["excluded"] == ["n2"]
    assert "deepspeed 0.1 instead of " in decisions[0]["reason"]
    nodes = json.loads((config.run_dir / "preflight.json").read_text())["nodes"]
    assert [nodes[node]["verdict"] for node in NODES] == ["good", "bad", "good"]
    assert nodes["n3"]["checks"]["pair_all_reduce"]["value"] > 0
