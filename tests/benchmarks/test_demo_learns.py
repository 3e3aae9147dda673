"""The demo config reaches losses below those of n-gram baselines, in minutes."""

import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from rich.console import Console

from bigtrain.runs.report_figures import Report, read_report
from bigtrain.track.metrics_file import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def _bigtrain(folder: Path, *words: str) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "bigtrain.cli", *words]
    subprocess.run(command, cwd=folder, env=environment, check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the demo corpus."""
    folder = tmp_path_factory.mktemp("demo")
    library = sysconfig.get_paths()["stdlib"]
    text = [library, "--glob", "**/*.py", "--exclude", "*/site-packages/*"]
    _bigtrain(folder, "data", "tokenizer", *text, "--vocab-size", "4096", "--out", "stdlib.model")
    options = ["--tokenizer", "stdlib.model", "--validation-percent", "3", "--workers", "2"]
    _bigtrain(folder, "data", "shard", *text, *options, "--out", "corpora/stdlib")
    return folder


def _run(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> tuple[Report, float]:
    started = time.monotonic()
    _bigtrain(folder, "launch", "configs/gpt/tiny.yaml", *overrides)
    seconds = time.monotonic() - started
    monkeypatch.chdir(folder)
    name = dict(word.split("=") for word in overrides)["name"]
    return read_report(Path("runs") / name), seconds


def test_the_demos_final_loss_is_far_below_the_unigram_baseline(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, seconds = _run(folder, monkeypatch, "name=demo")
    assert report.baselines is not None
    assert report.validation_loss is not None
    assert report.validation_loss < report.baselines.unigram - 1.5
    assert seconds < 5 * 60
    steps = read_metrics(Path("runs/demo/metrics.jsonl"), "train")
    waiting, whole = (sum(line[f"{what}_seconds"] for line in steps) for what in ("data", "step"))
    Console().print(f"waiting for data: {waiting / whole:.3%} of the time of {len(steps)} steps")
    assert waiting / whole < 0.01


def test_the_final_loss_of_a_longer_run_is_below_the_bigram_baseline(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, seconds = _run(folder, monkeypatch, "name=long", "train.steps=2000")
    assert report.baselines is not None
    assert report.validation_loss is not None
    assert report.validation_loss < report.baselines.bigram
    assert seconds < 30 * 60
