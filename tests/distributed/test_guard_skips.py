"""A bad update is skipped on all ranks, and the run continues or ends with a clear message."""

import logging
import math
from dataclasses import dataclass
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from bigtrain.checkpoint.schema import read_state
from bigtrain.checkpoint.storage_folder import open_folder
from bigtrain.config import RunConfig
from bigtrain.track.metrics_file import read_metrics
from tests.ranks import RankError, run_ranks
from tests.runs import hash_tensors, merge, tiny_config, train_rank

STATE = ("weight", "first_moment", "second_moment")


@dataclass(frozen=True)
class Fault:
    """A fault in a step: the loss, or only its gradient, is multiplied on one data rank.

    The fault belongs to samples, as a bad document does: reading them again repeats it.
    """

    first_sample: int
    samples: int
    factor: float
    gradient_only: bool = False


def train_with_faults(config: RunConfig, faults: list[Fault]) -> list[str]:
    """Trains with faults on the last data rank; returns the logged lines."""
    from bigtrain.objectives.objective import LOSS_SUM
    from bigtrain.train.trainer import Trainer

    plain = Trainer._forward_step

    def forward_step_of(self: Any, step: int, batch: Any) -> Any:
        forward_step = plain(self, step, batch)
        first, last = self.data.sample_numbers(self.progress.samples)
        here = [f for f in faults if f.first_sample <= last and first < f.first_sample + f.samples]
        if not here or self._coordinates.data != self.layout.data - 1:
            return forward_step
        [fault] = here

        def faulty(microbatches: Any, stage: Any) -> Any:
            output, loss_of = forward_step(microbatches, stage)

            def loss(output: Any) -> Any:
                total, report = loss_of(output)
                if not fault.gradient_only:
                    report = {**report, LOSS_SUM: report[LOSS_SUM] * fault.factor}
                return total * fault.factor, report

            return output, loss

        return faulty

    Trainer._forward_step = forward_step_of  # type: ignore[method-assign]
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    logging.getLogger().addHandler(QueueHandler(records))
    train_rank(config)
    return [records.get().getMessage() for _ in range(records.qsize())]


def _config(corpus: Path, runs: Path, **sections: Any) -> RunConfig:
    values: dict[str, Any] = {
        "train": {"steps": 16},
        "guard": {"window": 16},
        "checkpoint": {"every": 1},
        "validation": {"every": 100},
    }
    return tiny_config(corpus, runs, **merge(values, sections))


def _state(config: RunConfig, step: int) -> dict[str, str]:
    return hash_tensors(config.run_dir / f"checkpoints/step-{step:08d}", STATE)


def _skipped(config: RunConfig) -> list[int]:
    lines = read_metrics(config.run_dir / "metrics.jsonl", "train")
    return [line["step"] for line in lines if line.get("skipped")]


FAULTS = [
    # Steps 3, 11 and 13 at 8 samples a step: before and after the window is half full.
    Fault(16, 8, math.nan),
    Fault(80, 8, 30.0),
    Fault(96, 8, 1000.0, gradient_only=True),
]


@pytest.mark.parametrize(
    ("world_size", "parallel"),
    [(1, {}), (2, {"zero": 1}), (2, {"tensor": 2})],
)
def test_a_fault_on_one_rank_is_skipped_on_all_ranks(
    corpus: Path, tmp_path: Path, world_size: int, parallel: dict[str, Any]
) -> None:
    config = _config(corpus, tmp_path, parallel={**parallel, "device": "cpu"})
    messages = run_ranks(train_with_faults, world_size, config, FAULTS)
    assert _skipped(config) == [3, 11, 13]
    for step in (3, 11, 13):
        assert _state(config, step) == _state(config, step - 1)
        assert _state(config, step + 1) != _state(config, step)
    lines = {line["step"]: line for line in read_metrics(config.run_dir / "metrics.jsonl", "train")}
    assert lines[3]["loss"] is None
    assert [lines[step]["skipped_updates"] for step in (2, 3, 10, 11, 13, 16)] == [0, 1, 1, 2, 3, 3]
    assert lines[3]["tokens"] == lines[2]["tokens"]
    assert lines[3]["samples"] == lines[2]["samples"] + 8
    reported = [message for message in messages[0] if "was skipped" in message]
    assert [message.split(":")[0] for message in reported] == ["step 3", "step 11", "step 13"]
    assert reported[0].endswith("the loss is nan (samples 16 to 23)")
    assert "gradient's norm" in reported[2]
    assert lines[16]["loss"] < lines[1]["loss"]


def test_a_resumed_run_skips_the_same_updates_as_an_uninterrupted_one(
    corpus: Path, tmp_path: Path
) -> None:
    uninterrupted = _config(corpus, tmp_path / "uninterrupted")
    run_ranks(train_with_faults, 1, uninterrupted, FAULTS)
    parts = _config(corpus, tmp_path / "parts")
    # The first part ends right before the second fault: the window must be in the checkpoint.
    first = _config(corpus, tmp_path / "parts", train={"steps": 10}, optim={"decay_steps": 16})
    run_ranks(train_with_faults, 1, first, FAULTS)
    run_ranks(train_with_faults, 1, parts, FAULTS)
    assert _skipped(parts) == [3, 11, 13]
    ours, theirs = (
        read_state(open_folder(config.run_dir / "checkpoints/step-00000016"))
        for config in (parts, uninterrupted)
    )
    assert ours.guard == theirs.guard
    assert ours.guard["skipped_updates"] == 3
    assert _state(parts, 16) == _state(uninterrupted, 16)


def test_too_many_skips_in_a_row_end_the_run_and_the_message_gives_the_remedy(
    corpus: Path, tmp_path: Path
) -> None:
    config = _config(corpus, tmp_path, guard={"stop_after": 3}, checkpoint={"every": 4})
    with pytest.raises(RankError) as caught:
        run_ranks(train_with_faults, 2, config, [Fault(80, 24, math.inf)])
    message = str(caught.value)
    assert "DivergedError: step 13: 3 updates in a row were skipped" in message
    assert "samples 96 to 103" in message
    assert f"`bigtrain rewind {config.run_dir} --to 8 --skip-steps 11:13`" in message
    assert _skipped(config) == [11, 12, 13]
