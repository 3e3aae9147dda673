"""Runs that `bigtrain launch --cluster` submits to the cluster of the tests."""

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from bigtrain.config import RunConfig, render_config
from bigtrain.runs.job_file import load_job
from bigtrain.track.json_lines import read_lines
from bigtrain.track.metrics_file import read_metrics
from tests.ranks import run_ranks
from tests.runs import hash_tensors, train_rank
from tests.slurm.cluster import SlurmCluster
from tests.slurm.processes import command_of, environment_of, wait_until

CPU_PROFILE: dict[str, Any] = {
    "ranks_per_node": 1,
    "time": "30:00",
    "warning_seconds": 60,
    # Preflight checks are tested on their own; they take seconds.
    "preflight": False,
    "environment": {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
}
END_SECONDS = 120.0
LOCAL_SECONDS = 1200.0
"""Limit for a run on this machine, which other processes may use, too."""
STATE = ("weight", "first_moment", "second_moment")


def losses_of(config: RunConfig) -> dict[int, float]:
    """The training loss of each step that a run has logged; that of the newest attempt counts."""
    file = config.run_dir / "metrics.jsonl"
    lines = read_metrics(file, "train") if file.exists() else []
    return {line["step"]: line["loss"] for line in lines}


def train_locally(config: RunConfig, world_size: int, runs: Path) -> RunConfig:
    """Trains the run on this machine, in another folder; returns its config there."""
    local = config.model_copy(update={"runs_dir": str(runs)})
    with pytest.MonkeyPatch.context() as environment:
        # The server that forks the ranks outlives the test; it is not a user of the cluster.
        environment.delenv("SLURM_CONF", raising=False)
        run_ranks(train_rank, world_size, local, timeout=LOCAL_SECONDS)
    return local


class ClusterRun:
    """A run that is launched on the cluster, and what its files and processes say."""

    def __init__(
        self,
        cluster: SlurmCluster,
        config: RunConfig,
        folder: Path,
        *,
        nodes: int,
        profile: Mapping[str, Any] | None = None,
        environment: Mapping[str, object] | None = None,
    ) -> None:
        self.cluster, self.config, self.nodes = cluster, config, nodes
        self._file = folder / f"{config.name}.yaml"
        self._profile = folder / f"{config.name}-cluster.yaml"
        self._file.write_text(render_config(config))
        variables = {name: str(value) for name, value in (environment or {}).items()}
        values = {**CPU_PROFILE, **(profile or {})}
        values["environment"] = {**values["environment"], **variables}
        self._profile.write_text(yaml.safe_dump(values))

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.run_dir

    @property
    def job(self) -> str:
        """The id of the newest job."""
        record = load_job(self.folder)
        assert record is not None and record.jobs, f"{self.folder} has no job"
        return record.jobs[-1]

    def bigtrain(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command of bigtrain on the login node."""
        return self.cluster.run(sys.executable, "-m", "bigtrain.cli", *words, check=check)

    def launch(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Submits the run, as a user does."""
        cluster = ["--cluster", str(self._profile), "--nodes", str(self.nodes)]
        return self.bigtrain("launch", str(self._file), *cluster, *words, check=check)

    def wait_for_step(self, step: int, timeout: float = END_SECONDS) -> None:
        """Waits until the run has taken ``step`` steps."""
        wait_until(
            lambda: max(self.losses(), default=0) >= step or self._has_ended(),
            timeout,
            self.describe,
        )
        assert max(self.losses(), default=0) >= step, self.describe()

    def wait_end(self, state: str = "finished", timeout: float = END_SECONDS) -> None:
        """Waits until the supervisor has ended the run, and SLURM the job."""
        wait_until(self._has_ended, timeout, self.describe)
        assert self.events("job_end")[-1]["state"] == state, self.describe()

    def losses(self) -> dict[int, float]:
        """The training loss of each step that was logged."""
        return losses_of(self.config)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of one kind in ``attempts.jsonl``."""
        file = self.folder / "attempts.jsonl"
        return [each for each in read_lines(file) if each["event"] == name] if file.exists() else []

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says."""
        return dict(json.loads((self.folder / "status.json").read_text()))

    def ranks(self) -> dict[int, psutil.Process]:
        """The processes of the ranks, by rank."""
        found = {}
        for process in self.cluster.processes():
            if "train-rank" in command_of(process):
                with suppress(KeyError):
                    found[int(environment_of(process)["RANK"])] = process
        return found

    def node_of(self, rank: int) -> str:
        """The node of a rank that runs."""
        return environment_of(self.ranks()[rank])["BIGTRAIN_NODE"]

    def output(self) -> str:
        """What the batch script and rank 0 wrote."""
        files = sorted((self.folder / "logs").glob("slurm-*.out"))
        return "\n".join(file.read_text() for file in files)

    def _has_ended(self) -> bool:
        record = load_job(self.folder)
        return record is not None and record.state == "ended" and not self.cluster.alive_jobs()

    def describe(self) -> str:
        """What a failed test should show."""
        logs = sorted((self.folder / "logs").glob("rank-*.log"))
        ends = {file.name: file.read_text()[-1000:] for file in logs}
        # The lines of steps say nothing about a fault.
        lines = [line for line in self.output().splitlines() if " loss " not in line]
        jobs = [self.cluster.details(job.id) for job in self.cluster.jobs()]
        return f"jobs: {jobs}\noutput:\n" + "\n".join(lines[-60:]) + f"\nlogs: {ends}"


def final_state(config: RunConfig) -> dict[str, str]:
    """The hashes of all weights and moments in the checkpoint of the last step."""
    step = config.train.steps
    return hash_tensors(config.run_dir / "checkpoints" / f"step-{step:08}", STATE)


def check_same_end(run: ClusterRun, uninterrupted: RunConfig) -> None:
    """The losses of all steps and the final state equal those of the uninterrupted run."""
    assert run.losses() == losses_of(uninterrupted)
    assert final_state(run.config) == final_state(uninterrupted)
