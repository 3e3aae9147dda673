"""`bigtrain launch` on hosts of a real sshd: the run gets to its end, and nothing is left."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import launcher
from bigtrain.config import RunConfig, render_config
from bigtrain.track.json_lines import read_lines
from bigtrain.track.metrics_file import read_metrics
from tests.launcher.ssh_server import HOSTS, SshServer, ssh_server
from tests.ranks import run_ranks
from tests.runs import tiny_config, train_rank
from tests.slurm.processes import command_of, environment_of, wait_until

pytestmark = pytest.mark.slow

REPOSITORY = Path(launcher.__file__).parents[1]
HIDDEN = "hidden-4711"
SECRET = f'{HIDDEN} pass\'word \\ of "me"'
"""A value of the profile that only the user may see; it has quotes and blanks."""
SECONDS = 240.0
"""Limit for each wait; all are much shorter on a machine that has nothing else to do."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def _config(corpus: Path, runs: Path) -> RunConfig:
    # One microbatch means few collectives, which take 1 to 2 ms each with gloo.
    train = {"micro_batch_size": 4, "steps": 60, "log_every": 1}
    return tiny_config(corpus, runs, train=train, validation={"every": 60})


def _losses(config: RunConfig) -> dict[int, float]:
    file = config.run_dir / "metrics.jsonl"
    return (
        {line["step"]: line["loss"] for line in read_metrics(file, "train")}
        if file.exists()
        else {}
    )


@pytest.fixture(scope="module")
def local_losses(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of the run on two ranks of this machine without ssh."""
    config = _config(corpus, tmp_path_factory.mktemp("local"))
    run_ranks(train_rank, 2, config, timeout=SECONDS)
    return _losses(config)


@dataclass
class SshRun:
    """A run on two hosts, and what its files and processes say."""

    config: RunConfig
    server: SshServer
    folder: Path  # for the files of the user
    temporary: Path  # for the temporary files of the agents and ranks
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def launch(self) -> "subprocess.Popen[str]":
        """Starts `bigtrain launch` in a process group of its own, as a shell does."""
        run, profile = self.folder / "run.yaml", self.folder / "cluster.yaml"
        run.write_text(render_config(self.config))
        values = {
            "scheduler": "hosts",
            "hosts": list(HOSTS),
            "ssh_options": self.server.options,
            "ranks_per_node": 1,
            "preflight": False,
            "environment": {
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
                "TMPDIR": str(self.temporary),
                "SECRET": SECRET,
            },
        }
        profile.write_text(yaml.safe_dump(values))
        words = ("-m", "bigtrain.cli", "launch", str(run), "--cluster", str(profile))
        with (self.folder / "output").open("a") as output:
            self.started.append(
                subprocess.Popen(
                    [sys.executable, *words],
                    cwd=REPOSITORY,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,
                )
            )
        return self.started[-1]

    def wait_for_step(self, step: int) -> None:
        def is_there() -> bool:
            assert self.started[-1].poll() is None, self.describe()
            return max(_losses(self.config), default=0) >= step

        wait_until(is_there, SECONDS, self.describe)

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = read_lines(self.config.run_dir / "attempts.jsonl")
        return [line for line in lines if line["event"] == name]

    def state(self) -> str:
        return str(json.loads((self.config.run_dir / "status.json").read_text())["state"])

    def processes(self) -> list[psutil.Process]:
        """What the server started for the logins, and the clients that are connected to it."""
        clients = [
            each for each in psutil.process_iter() if str(self.server.port) in command_of(each)
        ]
        return [*clients, *self.server.process.children(recursive=True)]

    def ranks(self) -> dict[int, psutil.Process]:
        found = {}
        for process in self.processes():
            if "train-rank" in command_of(process):
                found[int(environment_of(process)["RANK"])] = process
        return found

    def check_nothing_left(self) -> None:
        """No process, and no folder with a socket of an agent."""
        wait_until(lambda: not self.processes(), 20, lambda: str(self.processes()))
        assert not list(self.temporary.glob("*bigtrain*")), list(self.temporary.iterdir())

    def describe(self) -> str:
        logs = [self.folder / "output", *self.config.run_dir.glob("logs/rank-*.log")]
        texts = [f"{file.name}: {file.read_text()[-3000:]}" for file in logs if file.exists()]
        return "\n".join([*texts, self.server.log()[-2000:]])


@pytest.fixture
def run(server: SshServer, corpus: Path, tmp_path: Path, temporary: Path) -> Iterator[SshRun]:
    made = SshRun(_config(corpus, tmp_path / "runs"), server, tmp_path, temporary)
    yield made
    for process in made.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for left in made.processes():
        with suppress(psutil.NoSuchProcess):
            left.kill()


def test_a_rank_on_an_ssh_host_that_is_killed_starts_again_and_the_losses_are_those_of_one_machine(
    run: SshRun, local_losses: dict[int, float]
) -> None:
    job = run.launch()
    run.wait_for_step(15)
    ranks = run.ranks()
    assert {environment_of(each)["BIGTRAIN_NODE"] for each in ranks.values()} == set(HOSTS)
    assert environment_of(ranks[1])["SECRET"] == SECRET
    assert not [each for each in psutil.process_iter() if HIDDEN in " ".join(command_of(each))]
    ranks[1].kill()
    assert job.wait(SECONDS) == 0, run.describe()
    ends = [(end["kind"], end["rank"], end["nodes"]) for end in run.events("attempt_end")]
    assert ends == [("rank_failed", 1, [HOSTS[1]]), ("finished", None, [])], run.describe()
    assert run.state() == "finished"
    assert _losses(run.config) == local_losses
    run.check_nothing_left()


def test_ctrl_c_saves_a_run_on_ssh_hosts_and_the_same_command_continues_it(
    run: SshRun, local_losses: dict[int, float]
) -> None:
    job = run.launch()
    run.wait_for_step(5)
    os.killpg(job.pid, signal.SIGINT)
    job.wait(SECONDS)
    (end,) = run.events("attempt_end")
    assert (end["kind"], end["stop_cause"]) == ("stopped", "user"), run.describe()
    assert 5 <= end["saved_step"] == end["last_step"] < 60
    assert run.state() == "stopped" and job.returncode == 130, run.describe()
    run.check_nothing_left()
    assert run.launch().wait(SECONDS) == 0, run.describe()
    assert run.events("attempt_end")[-1]["started_at_step"] == end["saved_step"]
    assert _losses(run.config) == local_losses
    run.check_nothing_left()


def _supervisor_is_killed(run: SshRun) -> None:
    run.started[-1].kill()


def _terminal_is_closed(run: SshRun) -> None:
    os.killpg(run.started[-1].pid, signal.SIGHUP)


@pytest.mark.parametrize("end", [_supervisor_is_killed, _terminal_is_closed])
def test_ranks_on_ssh_hosts_save_and_end(run: SshRun, end: Callable[[SshRun], None]) -> None:
    job = run.launch()
    run.wait_for_step(5)
    end(run)
    job.wait(SECONDS)
    wait_until(lambda: not run.processes(), SECONDS, run.describe)
    run.check_nothing_left()
    saved = sorted((run.config.run_dir / "checkpoints").glob("step-*"))
    assert saved and run.state() == "stopped", run.describe()
