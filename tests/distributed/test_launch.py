"""`bigtrain launch` as a user runs it: crashes, Ctrl-C, bad input, and a repeated command."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bigtrain.checkpoint.schema import KINDS
from bigtrain.config import RunConfig, render_config
from bigtrain.runs.resolve_run import resolve_run
from bigtrain.runs.rewind import render_rewind, rewind_run
from bigtrain.track.metrics_file import read_metrics
from tests.ranks import run_ranks
from tests.runs import (
    hash_tensors,
    modification_times,
    tiny_config,
    train_rank,
    train_resolved,
)


class Launched:
    """A running `bigtrain launch`."""

    def __init__(self, config: RunConfig, folder: Path, *options: str) -> None:
        file = folder / f"{config.name}.yaml"
        file.write_text(render_config(config))
        # As on a terminal, the launcher leads its own process group.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bigtrain.cli", "launch", str(file), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
        self._marker, self._config = str(config.run_dir / "config-launch-"), config

    def ranks(self) -> dict[int, psutil.Process]:
        """The processes of the ranks, by rank."""
        found = {}
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if "train-rank" in words and any(word.startswith(self._marker) for word in words):
                found[int(process.environ()["RANK"])] = process
        return found

    def wait_for_step(self, step: int) -> None:
        """Waits until the run has taken ``step`` steps."""
        file = self._config.run_dir / "metrics.jsonl"
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self.process.poll() is None:
            steps = read_metrics(file, "train") if file.exists() else []
            if steps and steps[-1]["step"] >= step:
                return
            time.sleep(0.01)
        raise AssertionError(f"step {step} was not reached:\n{self.end()[1]}")

    def end(self) -> tuple[int, str]:
        """Waits for the end; returns exit code and output."""
        output, _ = self.process.communicate(timeout=90)
        return self.process.returncode, output


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    """Starts launchers, and kills them after the test."""
    started: list[Launched] = []

    def start(config: RunConfig, *options: str) -> Launched:
        started.append(Launched(config, tmp_path, *options))
        return started[-1]

    yield start
    for launched in started:
        for process in launched.ranks().values():
            process.kill()
        launched.process.kill()
        launched.process.wait()


def _config(corpus: Path, runs: Path, **sections: Any) -> RunConfig:
    values = {
        "validation": {"every": 30},
        "checkpoint": {"every": 10},
        "parallel": {"tensor": 2, "device": "cpu"},
        **sections,
        # One microbatch means few collectives, which take 1 to 2 ms each with gloo.
        "train": {"steps": 60, "micro_batch_size": 8, **sections.get("train", {})},
    }
    return tiny_config(corpus, runs, **values)


def test_a_run_stopped_and_then_killed_ends_in_the_bits_of_an_uninterrupted_one(
    launch: Callable[..., Launched], corpus: Path, tmp_path: Path
) -> None:
    config = _config(corpus, tmp_path, track={"wandb": "offline"})
    launched = launch(config)
    launched.wait_for_step(5)
    _check_second_launch_is_refused(launch(config))
    stopped = _check_ctrl_c_saves(launched, config)

    launched = launch(config)
    launched.wait_for_step(stopped + 10)
    _check_a_killed_rank_is_named(launched, config)

    exit_code, output = launch(config).end()
    assert exit_code == 0, output
    assert "resumed from" in output
    uninterrupted = _config(corpus, tmp_path, name="uninterrupted")
    run_ranks(train_rank, 2, uninterrupted)
    last = "checkpoints/step-00000060"
    assert hash_tensors(config.run_dir / last, KINDS) == hash_tensors(
        uninterrupted.run_dir / last, KINDS
    )
    losses = [
        [line["loss"] for line in read_metrics(run.run_dir / "metrics.jsonl", "train")]
        for run in (config, uninterrupted)
    ]
    assert losses[0] == losses[1]
    # All attempts belong to one wandb run.
    run_id = (config.run_dir / "wandb_id").read_text().strip()
    runs = [path.name for path in (config.run_dir / "wandb").glob("offline-run-*")]
    assert len(runs) in (2, 3)  # The attempt that was killed may have ended before wandb began.
    assert all(name.endswith(run_id) for name in runs)


def _check_second_launch_is_refused(second: Launched) -> None:
    exit_code, output = second.end()
    assert exit_code == 2
    assert "is training this run" in output
    assert len(output.splitlines()) == 1


def _check_ctrl_c_saves(launched: Launched, config: RunConfig) -> int:
    """Stops a run; returns its last step."""
    os.kill(launched.process.pid, signal.SIGINT)
    exit_code, output = launched.end()
    assert exit_code == 130, output
    assert launched.ranks() == {}
    status = json.loads((config.run_dir / "status.json").read_text())
    assert status["state"] == "stopped"
    assert status["reason"] == "by Ctrl-C"
    assert status["last_checkpoint"].endswith(f"step-{status['step']:08d}")
    return status["step"]


def _check_a_killed_rank_is_named(launched: Launched, config: RunConfig) -> None:
    launched.ranks()[1].kill()
    killed = time.monotonic()
    exit_code, output = launched.end()
    assert time.monotonic() - killed < 30
    assert exit_code == 1
    assert "Rank 1 failed first" in output
    assert "SIGKILL" in output
    assert launched.ranks() == {}
    status = json.loads((config.run_dir / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["reason"].startswith("rank 1 failed first: killed by SIGKILL")


def test_an_attempt_that_finds_a_stop_file_ends_before_it_loads_a_checkpoint(
    corpus: Path, tmp_path: Path
) -> None:
    config = tiny_config(corpus, tmp_path, train={"steps": 3})
    config.run_dir.mkdir()
    (config.run_dir / "STOP").touch()
    run_ranks(train_rank, 2, config)
    status = json.loads((config.run_dir / "status.json").read_text())
    assert (status["step"], status["state"]) == (0, "stopped")
    assert status["reason"].endswith("STOP")
    assert not (config.run_dir / "STOP").exists()
    assert not (config.run_dir / "attempts.jsonl").exists()
    run_ranks(train_rank, 2, config)
    (config.run_dir / "STOP").touch()
    longer = tiny_config(corpus, tmp_path, train={"steps": 4}, optim={"decay_steps": 3})
    run_ranks(train_rank, 2, longer)
    status = json.loads((config.run_dir / "status.json").read_text())
    assert (status["step"], status["state"]) == (3, "stopped")
    assert status["last_checkpoint"].endswith("step-00000003")


def test_another_seed_is_refused_before_a_rank_starts(
    launch: Callable[..., Launched], corpus: Path, tmp_path: Path
) -> None:
    config = _config(corpus, tmp_path, train={"steps": 3})
    run_ranks(train_rank, 2, config)
    before = modification_times(config.run_dir)
    exit_code, output = launch(config, "seed=8").end()
    assert exit_code == 2
    assert "seed from 7 to 8" in output
    assert len(output.splitlines()) == 1
    assert modification_times(config.run_dir) == before


def test_a_config_from_a_pipe_is_read_once_and_a_renamed_run_resumes_by_the_printed_command(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("corpus").symlink_to(corpus)
    config = tiny_config(Path("corpus"), Path("runs"), checkpoint={"every": 1, "dir": "ck"})
    exit_code, output = _run("launch", "/dev/stdin", "train.steps=3", stdin=render_config(config))
    assert exit_code == 0, output
    assert not [*config.run_dir.glob("config-launch-*")]
    Path("runs/tiny").rename("runs/my run")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    lines = render_rewind(rewind_run(Path("../runs/my run"), to=1))
    assert lines[-1] == "next: bigtrain launch '../runs/my run'"
    renamed = resolve_run(shlex.split(lines[-1])[3:])
    run_ranks(train_resolved, 1, renamed)
    assert len([*(tmp_path / "ck/tiny").glob("step-????????")]) == 3
    assert not (tmp_path / "ck/my run").exists()
    steps = read_metrics(Path("../runs/my run/metrics.jsonl"), "train")
    assert [(line["step"], line["attempt"]) for line in steps] == [(1, 1), (2, 2), (3, 2)]
    assert not [*Path().iterdir()]


def _run(*words: str, stdin: str = "") -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "bigtrain.cli", *words],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["optim.learning_rat=1"], "optim.learning_rat=1: there is no such key; did you mean"),
        (["train.steps=many"], "train.steps='many'"),
        (["parallel.tensor=3"], "parallel.tensor=3 does not divide model.num_heads=4"),
        (["--processes", "3"], "needs a multiple of 2 processes, not 3"),
        (["nowhere.yaml"], "nowhere.yaml: no such config file"),
        (["data.train=nowhere"], "nowhere"),
        (["model.vocab_size=501"], "set model.vocab_size=500"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2_and_leaves_no_run(
    options: list[str], message: str, launch: Callable[..., Launched], corpus: Path, tmp_path: Path
) -> None:
    config = _config(corpus, tmp_path)
    exit_code, output = launch(config, *options).end()
    assert exit_code == 2, output
    assert message in output
    assert "Traceback" not in output
    assert len(output.splitlines()) == 1, output
    assert not (config.run_dir / "status.json").exists()
