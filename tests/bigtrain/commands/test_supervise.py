"""`bigtrain supervise` starts quickly, loads no torch, and refuses what it cannot supervise."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bigtrain.config import RunConfig, render_config
from bigtrain.config.cluster import ClusterConfig
from bigtrain.runs.job_file import JobRecord, write_job
from bigtrain.runs.run_folder import RunFolder
from tests.architecture.source_tree import REPOSITORY
from tests.runs import tiny_config

CPU_SECONDS = 1.0


@pytest.fixture
def config(corpus: Path, tmp_path: Path) -> RunConfig:
    """The config of a run on one host, which is ready to be supervised."""
    config = tiny_config(corpus, tmp_path)
    config.run_dir.mkdir()
    (config.run_dir / "config-job.yaml").write_text(render_config(config))
    return config


def _write_job(config: RunConfig, **profile: object) -> None:
    cluster = ClusterConfig.model_validate(profile)
    record = JobRecord(
        scheduler=cluster.scheduler,
        jobs=(),
        submitted="2026-01-05T12:00:00+00:00",
        host="login",
        nodes=1,
        spares=0,
        ranks_per_node=1,
        cluster=cluster,
    )
    write_job(config.run_dir, record)


def _supervise(run: Path, *interpreter: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *interpreter, "-m", "bigtrain.cli", "supervise", str(run)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_finished_run_ends_at_once_with_0_without_torch(config: RunConfig) -> None:
    _write_job(config, scheduler="hosts", hosts=["no-such-host"])
    RunFolder(config.run_dir).write_status(state="finished", step=config.train.steps)
    done = _supervise(config.run_dir, "-X", "importtime")
    assert done.returncode == 0 and "finished already" in done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "asyncio" in loaded
    assert not loaded & {"torch", "deepspeed", "megatron", "numpy", "rich", "wandb"}


def test_it_starts_in_less_than_a_second_of_cpu_time(config: RunConfig) -> None:
    _write_job(config, scheduler="hosts", hosts=["no-such-host"])
    RunFolder(config.run_dir).write_status(state="finished", step=config.train.steps)

    def cpu_seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert _supervise(config.run_dir).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    # Other processes can only make a try slower.
    assert any(cpu_seconds() < CPU_SECONDS for _ in range(3))


def test_a_run_without_a_job_is_refused(config: RunConfig) -> None:
    done = _supervise(config.run_dir)
    assert done.returncode == 2 and "no job.json" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_run_for_slurm_is_refused_outside_of_a_job(config: RunConfig, monkeypatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    _write_job(config)
    done = _supervise(config.run_dir)
    assert done.returncode == 2 and "not a SLURM job" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_interface_that_does_not_exist_is_named(config: RunConfig) -> None:
    _write_job(config, scheduler="hosts", hosts=["h1"], network_interface="ib99")
    done = _supervise(config.run_dir)
    assert done.returncode == 2
    assert "cluster.network_interface=ib99" in done.stderr and "Traceback" not in done.stderr
