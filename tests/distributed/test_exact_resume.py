"""A run that is stopped at any step and resumed ends with the same bits as an uninterrupted run."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bigtrain.checkpoint.schema import KINDS
from bigtrain.config import RunConfig
from bigtrain.environment import read_ranks
from bigtrain.track.metrics_file import read_metrics
from tests.ranks import RankError, run_ranks
from tests.runs import hash_tensors, in_layout, make_corpus, tiny_config, train_rank

STEPS = 20
SAVED = (6, 12, 18, STEPS)
BY_FILE = "STOP"
STOPS: dict[int, str] = {1: BY_FILE, 7: "SIGTERM", 13: "SIGUSR2"}
"""After which step the run is asked to stop, and how."""
QUICK_LAYOUT = "data=2 zero=1"
SLOW_LAYOUTS = (
    "one process",
    "tensor=2",
    "pipeline=2",
    "pipeline=2 virtual_pipeline=2",
    "data=2",
    "data=2 zero=2",
    "data=2 zero=3",
    "tensor=2 data=2 zero=1",
    "pipeline=2 virtual_pipeline=2 data=2 zero=3",
)
EXACT = ("loss", "grad_norm", "learning_rate", "samples", "tokens", "skipped_updates")
"""What every line of metrics.jsonl says the same."""


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus so small that an epoch takes a few steps."""
    return make_corpus(tmp_path_factory.mktemp("small"), documents=5)


@dataclass(frozen=True, slots=True)
class _Uninterrupted:
    """An uninterrupted run."""

    config: RunConfig
    """The config to run in another folder, stop, and resume."""
    world_size: int
    hashes: dict[str, dict[str, str]]
    """Tensor hashes of every checkpoint, by its name; saves were synchronous."""
    lines: list[list[Any]]


@pytest.fixture(scope="module")
def uninterrupted(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> _Uninterrupted:
    """An uninterrupted run in the layout of the quick tests."""
    return _train_uninterrupted(
        small_corpus, tmp_path_factory.mktemp("uninterrupted"), QUICK_LAYOUT
    )


def _config(corpus: Path, runs: Path, layout: str, **train: Any) -> tuple[RunConfig, int]:
    config = tiny_config(
        corpus,
        runs,
        model={"dropout": 0.1},
        data={"workers": 2},
        # Two microbatches on each of two data ranks, four on a single one.
        train={"steps": STEPS, **train},
        validation={"every": 5},
        # The saves of steps 6 and 12 are still being written when the run stops after 7 and 13.
        checkpoint={"every": 6},
    )
    return in_layout(config, layout)


def _train_uninterrupted(corpus: Path, runs: Path, layout: str, **train: Any) -> _Uninterrupted:
    config, world_size = _config(corpus, runs, layout, **train)
    waits = config.checkpoint.model_copy(update={"asynchronous": False})
    run_ranks(train_rank, world_size, config.model_copy(update={"checkpoint": waits}))
    return _Uninterrupted(config, world_size, _hashes(config), _lines(config))


def _hashes(config: RunConfig) -> dict[str, dict[str, str]]:
    folder = config.run_dir / "checkpoints"
    return {f"step-{step:08d}": hash_tensors(folder / f"step-{step:08d}", KINDS) for step in SAVED}


def _lines(config: RunConfig) -> list[list[Any]]:
    lines = read_metrics(config.run_dir / "metrics.jsonl", "train")
    return [[line[key] for key in EXACT] for line in lines]


def _in_folder(config: RunConfig, runs: Path) -> RunConfig:
    """The config with another runs folder."""
    return config.model_copy(update={"runs_dir": str(runs)})


def train_and_stop(config: RunConfig, step: int) -> Any:
    """Trains, and requests a stop in the middle of a step; for ``run_ranks``."""
    _request_stop_in_step(config, step)
    return train_rank(config)


def _request_stop_in_step(config: RunConfig, step: int, how: str | None = None) -> None:
    """Prepares a stop request: a signal to the last rank, or a stop file written by rank 0."""
    from bigtrain.train.trainer import Trainer

    how = STOPS[step] if how is None else how
    ranks = read_ranks()
    if ranks.rank != (0 if how == BY_FILE else ranks.world_size - 1):
        return
    steps = Trainer.steps

    def steps_with_stop(trainer: Trainer, stop_requested: Any, **options: Any) -> Any:
        def is_stop_requested() -> bool:
            if trainer.progress.step + 1 == step:
                if how == BY_FILE:
                    (config.run_dir / BY_FILE).touch()
                else:
                    signal.raise_signal(signal.Signals[how])
            return bool(stop_requested())

        return steps(trainer, is_stop_requested, **options)

    Trainer.steps = steps_with_stop


def _stop_and_resume(uninterrupted: _Uninterrupted, runs: Path, stops: list[int]) -> None:
    config = _in_folder(uninterrupted.config, runs)
    for step in stops:
        outcome = run_ranks(train_and_stop, uninterrupted.world_size, config, step)[0]
        assert (outcome.state, outcome.step) == ("stopped", step)
    outcome = run_ranks(train_rank, uninterrupted.world_size, config)[0]
    assert (outcome.state, outcome.step) == ("finished", STEPS)
    assert _lines(config) == uninterrupted.lines
    assert _hashes(config) == uninterrupted.hashes
    for step in stops:
        if step > 6:
            _check_that_a_save_was_in_flight(config, step)


def _check_that_a_save_was_in_flight(config: RunConfig, step: int) -> None:
    """Checks that the asynchronous save of the previous step ended after the stop request."""
    lines = map(json.loads, (config.run_dir / "metrics.jsonl").read_text().splitlines())
    order = [(line["split"], line["step"]) for line in lines if "step" in line]
    assert order.index(("checkpoint", step - 1)) > order.index(("train", step))


def test_a_stopped_run_ends_in_the_bits_of_an_uninterrupted_one(
    uninterrupted: _Uninterrupted, tmp_path: Path
) -> None:
    _stop_and_resume(uninterrupted, tmp_path, [7, 13])


def test_the_stops_fall_inside_epochs(uninterrupted: _Uninterrupted) -> None:
    lines = read_metrics(uninterrupted.config.run_dir / "metrics.jsonl", "train")
    (epochs_of,) = (key for key in lines[0] if key.startswith("epochs/"))
    epochs = {line["step"]: line[epochs_of] for line in lines}
    assert all(epochs[step] % 1 for step in STOPS)
    assert [int(epochs[step]) for step in (*STOPS, STEPS)] == [0, 0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("layout", SLOW_LAYOUTS)
def test_a_run_stopped_three_times_ends_in_the_bits_of_an_uninterrupted_one(
    layout: str, small_corpus: Path, tmp_path: Path
) -> None:
    uninterrupted = _train_uninterrupted(small_corpus, tmp_path / "uninterrupted", layout)
    _stop_and_resume(uninterrupted, tmp_path / "stopped", [*STOPS])


@pytest.mark.slow
def test_a_run_in_bf16_stopped_three_times_ends_in_the_same_bits(
    small_corpus: Path, tmp_path: Path
) -> None:
    uninterrupted = _train_uninterrupted(
        small_corpus, tmp_path / "uninterrupted", QUICK_LAYOUT, precision="bf16"
    )
    _stop_and_resume(uninterrupted, tmp_path / "stopped", [*STOPS])


def train_and_signal_the_save(config: RunConfig, step: int, number: int) -> Any:
    """Trains, stops by a signal, and receives it again at each box and around the commit."""
    from bigtrain.checkpoint import saver

    _request_stop_in_step(config, step, signal.Signals(number).name)
    write, finish = saver.write_boxes, saver.finish_checkpoint

    def send() -> None:
        os.kill(os.getpid(), number)

    def write_signalled(folder: Any, boxes: Any, **options: Any) -> None:
        is_the_last = folder.name.startswith(f"step-{step:08d}")

        def one_by_one() -> Any:
            for box in boxes:
                if is_the_last:
                    send()
                yield box

        write(folder, one_by_one(), **options)

    def finish_signalled(folder: Any, *, state: Any, **options: Any) -> Any:
        if state.step == step:
            send()
        finished = finish(folder, state=state, **options)
        if state.step == step:
            send()
        return finished

    saver.write_boxes, saver.finish_checkpoint = write_signalled, finish_signalled
    return train_rank(config)


def test_more_signals_during_the_stopping_save_do_not_disturb_it(
    uninterrupted: _Uninterrupted, tmp_path: Path
) -> None:
    config = _in_folder(uninterrupted.config, tmp_path)
    stopping = (train_and_signal_the_save, uninterrupted.world_size, config, 7, signal.SIGTERM)
    outcome = run_ranks(*stopping)[0]
    assert (outcome.state, outcome.step) == ("stopped", 7)
    assert _checkpoints(config) == ["step-00000006", "step-00000007"]
    run_ranks(train_rank, uninterrupted.world_size, config)
    assert _hashes(config) == uninterrupted.hashes
    assert _lines(config) == uninterrupted.lines


@pytest.mark.slow
def test_a_second_interrupt_ends_the_save_and_the_run_resumes_from_the_previous_one(
    uninterrupted: _Uninterrupted, tmp_path: Path
) -> None:
    config = _in_folder(uninterrupted.config, tmp_path)
    stopping = (train_and_signal_the_save, uninterrupted.world_size, config, 7, signal.SIGINT)
    with pytest.raises(RankError):  # Some ranks are interrupted while they report.
        run_ranks(*stopping)
    run_ranks(train_rank, uninterrupted.world_size, config)
    assert _checkpoints(config) == [*uninterrupted.hashes]
    assert _hashes(config) == uninterrupted.hashes
    assert _lines(config) == uninterrupted.lines


def _checkpoints(config: RunConfig) -> list[str]:
    return sorted(path.name for path in (config.run_dir / "checkpoints").iterdir())
