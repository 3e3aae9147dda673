"""A run that diverges on damaged data rewinds itself past the damage, and finishes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bigtrain.commands import local_launch
from bigtrain.config import RunConfig, render_config
from bigtrain.runs.documents_of_step import find_samples
from bigtrain.track.json_lines import read_lines
from bigtrain.track.metrics_file import read_metrics
from launcher.local import LaunchResult, LocalLaunch, RankFailure
from tests.diverging_runs import check_skipped, diverging_config, make_corpora
from tests.ranks import RankError, run_ranks
from tests.runs import train_resolved


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_corpora(tmp_path_factory.mktemp("corpora"))


def _rank(config_file: str, folder: str) -> int:
    """A rank as `train-rank` runs it, but forked: a new interpreter takes 6 s to import torch."""
    from bigtrain.commands.error_report import explain, write_error_report
    from bigtrain.config.config_files import load_resolved_config

    os.environ["BIGTRAIN_ERROR_FILE"] = f"{folder}/rank-{os.environ['RANK']}.error.json"
    try:
        train_resolved(load_resolved_config(Path(config_file)))
    except Exception as error:
        message, exit_code, _ = explain(error)
        divergence = getattr(error, "divergence", None)
        write_error_report(message, exit_code, divergence=divergence)
        raise
    return 0


def _run_forked(job: LocalLaunch) -> LaunchResult:
    job.log_dir.mkdir(parents=True, exist_ok=True)
    for stale in job.log_dir.glob("rank-*.error.json"):
        stale.unlink()
    config_file = job.command[job.command.index("train-rank") + 1]
    try:
        run_ranks(_rank, job.processes, config_file, str(job.log_dir))
    except RankError as error:
        failure = RankFailure(0, 1, None, str(error).splitlines()[-1], None)
        return LaunchResult(1, failure, interrupted=False)
    return LaunchResult(0, None, interrupted=False)


@pytest.fixture(autouse=True)
def forked_ranks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "slow" not in request.keywords:
        monkeypatch.setattr(local_launch, "run_local", _run_forked)


def _events(config: RunConfig) -> list[dict[str, Any]]:
    return list(read_lines(config.run_dir / "attempts.jsonl"))


def _check_finished_after_a_rewind(config: RunConfig) -> None:
    check_skipped(config)
    assert [event["event"] for event in _events(config)] == [
        *("start", "end", "decision", "rewind", "start", "end"),
    ]
    decision, rewind, start = _events(config)[2:5]
    assert (decision["action"], decision["rewind"]) == ("rewind", 1)
    assert "rewind 1 of 1: back to step 5" in decision["reason"]
    assert (rewind["to"], rewind["skipped"]) == (5, {"first_sample": 64, "samples": 192})
    assert start["step"] == 5
    # Every sink, wandb among them, receives the rewind.
    [told] = read_metrics(config.run_dir / "metrics.jsonl", "rewind")
    expected = {"number": 1, "to_step": 5, "first_sample": 64, "samples": 192, "attempt": 2}
    assert expected.items() <= told.items()


def test_a_diverged_run_rewinds_itself_past_the_bad_samples_and_finishes(
    corpora: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = diverging_config(corpora, tmp_path, rewind=1)
    assert local_launch.launch_locally(config, processes=1, accepted=[]) == 0
    _check_finished_after_a_rewind(config)
    told = capsys.readouterr().err
    assert "step 22: 2 updates in a row were skipped" in told
    assert "back to step 5, without the samples of steps 9 to 32" in told
    assert "192 samples from 64 are skipped" in told
    assert "next:" not in told


@pytest.mark.parametrize(
    ("every", "told", "trained_before"),
    [
        (3, "back to step 18, without the samples of steps 19 to 32", 144),
        (21, "back to step 21, without the samples of steps 22 to 32", 168),
    ],
    ids=["the checkpoint before the spike is kept", "only the one inside it exists"],
)
def test_a_save_between_skipped_updates_does_not_cost_the_whole_run(
    corpora: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    every: int,
    told: str,
    trained_before: int,
) -> None:
    config = diverging_config(corpora, tmp_path, rewind=1)
    checkpoint = config.checkpoint.model_copy(update={"every": every, "keep_last": 1})
    config = config.model_copy(update={"checkpoint": checkpoint})
    assert local_launch.launch_locally(config, processes=1, accepted=[]) == 0
    assert told in capsys.readouterr().err
    read = [s.sample for step in range(1, 41) for s in find_samples(config.run_dir, step)]
    assert read == [*range(trained_before), *range(256, 256 + 320 - trained_before)]
    [saved] = (config.run_dir / "checkpoints").glob("step-????????")
    assert saved.name == "step-00000040"


@pytest.mark.parametrize("rewinds", [0, 1], ids=["none allowed", "all used"])
def test_a_diverged_run_without_rewinds_left_fails_and_keeps_its_checkpoints(
    corpora: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rewinds: int,
) -> None:
    config = diverging_config(corpora, tmp_path, rewind=rewinds)
    config.run_dir.mkdir()
    if rewinds:  # An earlier launch has rewound the run.
        (config.run_dir / "attempts.jsonl").write_text('{"event":"decision","action":"rewind"}\n')
    assert local_launch.launch_locally(config, processes=1, accepted=[]) == 1
    assert "bigtrain rewind" in capsys.readouterr().err
    assert "rewind" not in [event["event"] for event in _events(config)]
    assert not (config.run_dir / "skip.yaml").exists()
    names = sorted(path.name for path in (config.run_dir / "checkpoints").iterdir())
    assert names == [f"step-{step:08d}" for step in (5, 10, 15, 20)]


@pytest.mark.slow
def test_the_command_launch_rewinds_a_diverged_run_of_two_ranks(
    corpora: dict[str, Path], tmp_path: Path
) -> None:
    """Takes 35 s: four interpreters that import torch."""
    config = diverging_config(corpora, tmp_path, rewind=1)
    file = tmp_path / "run.yaml"
    file.write_text(render_config(config))
    options = ("--processes", "2", "train.micro_batch_size=4")
    done = subprocess.run(
        [sys.executable, "-m", "bigtrain.cli", "launch", str(file), *options],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    _check_finished_after_a_rewind(config)
    assert "rewind 1 of 1" in done.stderr
