"""One tiny trained run, which the command tests read or copy."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bigtrain.cli import main
from bigtrain.config import RunConfig
from tests.ranks import run_ranks
from tests.runs import tiny_config, train_rank

Command = Callable[..., tuple[int, list[str]]]


@pytest.fixture(scope="session")
def trained_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run of two tensor ranks with checkpoints of steps 2, 4 and 6; tests must not change it."""
    config = tiny_config(
        corpus,
        tmp_path_factory.mktemp("trained"),
        train={"steps": 6},
        validation={"every": 100},
        checkpoint={"every": 2},
        parallel={"tensor": 2},
        model={"num_layers": 2},
    )
    run_ranks(train_rank, 2, config)
    return config


@pytest.fixture
def run(trained_run: RunConfig, tmp_path: Path) -> Path:
    """The run folder of a copy, which tests may damage."""
    return Path(shutil.copytree(trained_run.run_dir, tmp_path / "tiny"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Returns a function that runs `bigtrain checkpoint` and returns exit code and lines."""

    def call(*words: object) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["bigtrain", "checkpoint", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), (captured.out + captured.err).splitlines()

    return call
