"""`bigtrain cluster init`: a profile from SLURM's facts, which says what was guessed."""

import sys
from pathlib import Path

import pytest

from bigtrain import cli
from bigtrain.config import load_config
from bigtrain.config.cluster import ClusterConfig
from tests.launcher.slurm.fake_slurm import CONTROLLER_DOWN, SHOW_PARTITION, FakeSlurm


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "slurm-commands")
    fake.install()
    monkeypatch.setenv("PATH", fake.path())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    return fake


def init(*words: str) -> int:
    sys.argv = ["bigtrain", "cluster", "init", *words]
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_a_gpu_partition_gets_its_sizes_and_the_guesses_are_named(
    slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init("--partition", "gpu") == 0
    out = capsys.readouterr().out
    assert "guessed cpus_per_rank: 12, an equal share of 96 CPUs" in out
    assert "guessed time: 24:00:00 for a job, because the partition has no limit" in out
    profile = load_config(["cluster.yaml"], ClusterConfig)
    assert (profile.partition, profile.gpus_per_node, profile.gpu_type) == ("gpu", 8, "h100")
    assert (profile.cpus_per_rank, profile.restart, profile.time) == (12, "requeue", "24:00:00")


def test_the_default_partition_is_described_with_its_limit(slurm: FakeSlurm) -> None:
    assert init("--out", "mine.yaml") == 0
    text = Path("mine.yaml").read_text()
    assert "partition: main               # 4 nodes: 16 CPUs, 62 GiB\n" in text
    profile = load_config(["mine.yaml"], ClusterConfig)
    assert (profile.time, profile.num_ranks_per_node) == ("2-00:00:00", 1)


@pytest.mark.parametrize(
    ("config", "partition", "restart"),
    [
        ("JobRequeue = 1", "PreemptMode=REQUEUE", "requeue"),
        ("JobRequeue = 0", "PreemptMode=REQUEUE", "chain"),
        ("JobRequeue = 1", "PreemptMode=CANCEL", "chain"),
        ("JobRequeue = 1", "PreemptMode=OFF", "requeue"),
    ],
)
def test_what_the_cluster_does_with_preempted_jobs_decides_how_runs_continue(
    config: str, partition: str, restart: str, slurm: FakeSlurm
) -> None:
    slurm.answer("scontrol", "show config", f"{config}\n")
    fields = SHOW_PARTITION.replace("PreemptMode=REQUEUE", partition)
    slurm.answer("scontrol", "show partition", fields)
    assert init() == 0
    assert load_config(["cluster.yaml"], ClusterConfig).restart == restart


def test_an_existing_file_is_not_overwritten(
    slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("cluster.yaml").write_text("partition: mine\n")
    assert init() == 2
    assert "cluster.yaml exists, and is not overwritten" in capsys.readouterr().err
    assert Path("cluster.yaml").read_text() == "partition: mine\n"


def test_a_failure_writes_no_file(slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    assert init("--partition", "nope") == 2
    slurm.answer("sinfo", "", "", f"slurm_load_partitions: {CONTROLLER_DOWN}", 1)
    assert init() == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "no such partition; It has" in first or "no such partition; " in first
    assert "SLURM's controller does not answer" in second
    assert not Path("cluster.yaml").exists()
