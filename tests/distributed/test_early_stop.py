"""A rank that is asked to stop while it starts ends cleanly, with all other ranks, unharmed."""

import json
import os
import queue
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import RunConfig, render_config
from bigtrain.track.json_lines import read_lines
from launcher.ranks import RankCommand, start_rank
from tests.ranks import run_ranks
from tests.runs import tiny_config, train_rank


def _config(corpus: Path, runs: Path) -> RunConfig:
    return tiny_config(corpus, runs, train={"steps": 6}, checkpoint={"every": 3})


def _train_with_a_signal(config: RunConfig, *, number: signal.Signals, during: str) -> Any:
    """Trains; rank 1 alone gets a signal before it connects, or while it loads."""
    from bigtrain.train import attempt, run
    from bigtrain.train.stop import StopFlag

    def signalled(plain: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if os.environ["RANK"] == "1":
                os.kill(os.getpid(), number)
            return plain(*args, **options)

        return call

    stop = StopFlag()
    if during == "connect":
        run.open_trainer = signalled(run.open_trainer)  # type: ignore[attr-defined]
    else:
        attempt.restore_trainer = signalled(attempt.restore_trainer)  # type: ignore[attr-defined]
    return train_rank(config, stop=stop)


def _status(config: RunConfig) -> dict[str, Any]:
    return json.loads((config.run_dir / "status.json").read_text())


@pytest.mark.parametrize(
    ("during", "number"), [("connect", signal.SIGTERM), ("load", signal.SIGUSR2)]
)
def test_a_run_that_is_stopped_while_it_starts_takes_no_step_and_continues_later(
    corpus: Path, tmp_path: Path, number: signal.Signals, during: str
) -> None:
    config = _config(corpus, tmp_path)
    half = tiny_config(corpus, tmp_path, train={"steps": 3}, optim={"decay_steps": 6})
    run_ranks(train_rank, 2, half)
    saved = sorted((config.run_dir / "checkpoints").iterdir())
    outcomes = run_ranks(_train_with_a_signal, 2, config, number=number, during=during)
    assert [(outcome.state, outcome.step) for outcome in outcomes] == [("stopped", 3)] * 2
    status = _status(config)
    assert (status["state"], status["step"]) == ("stopped", 3)
    # The launcher reads what the signal was; a signal on another rank has no name here.
    assert status["reason"] == "by another rank"
    assert status["last_checkpoint"].endswith("step-00000003")
    assert sorted((config.run_dir / "checkpoints").iterdir()) == saved
    ends = [e["event"] for e in read_lines(config.run_dir / "attempts.jsonl")]
    assert ends == ["start", "end", "start", "end"][: 2 if during == "connect" else 4]
    assert run_ranks(train_rank, 2, config)[0].state == "finished"


def test_a_new_run_that_is_stopped_while_it_loads_has_no_checkpoint(
    corpus: Path, tmp_path: Path
) -> None:
    config = _config(corpus, tmp_path)
    [outcome, _] = run_ranks(_train_with_a_signal, 2, config, number=signal.SIGUSR2, during="load")
    assert (outcome.state, outcome.step, outcome.checkpoint) == ("stopped", 0, None)
    assert (_status(config)["state"], _status(config)["step"]) == ("stopped", 0)
    assert run_ranks(train_rank, 2, config)[0].state == "finished"


def test_a_signal_that_comes_before_the_rank_handles_it_is_not_lost(
    corpus: Path, tmp_path: Path
) -> None:
    config = _config(corpus, tmp_path)
    file = tmp_path / "run.yaml"
    file.write_text(render_config(config))
    config.run_dir.mkdir()
    ended: queue.SimpleQueue[float] = queue.SimpleQueue()
    command = RankCommand(
        rank=0,
        command=(sys.executable, "-m", "bigtrain.cli", "train-rank", str(file)),
        environment={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        error_file=tmp_path / "error.json",
        log=tmp_path / "rank.log",
    )
    rank = start_rank(command, lambda _, time: ended.put(time))
    try:
        rank.send(signal.SIGUSR2)
        end = rank.load_end(ended.get(timeout=90))
    finally:
        rank.process.kill()
    output = (tmp_path / "rank.log").read_text()
    assert end.code == 0, output
    assert "stopped by SIGUSR2 before a checkpoint was loaded" in output
    assert _status(config)["state"] == "stopped"
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
