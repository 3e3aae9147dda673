"""A slow rank is named with its node; ranks that wait for each other are named together."""

import time
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import RunConfig
from bigtrain.health.stragglers import Straggler
from bigtrain.track.json_lines import read_lines
from bigtrain.track.metrics_file import read_metrics
from tests.ranks import run_ranks
from tests.runs import tiny_config, train_rank

SLOW_FROM = 4


def _train_with_a_slow_rank(config: RunConfig, slow: int, seconds: float, window: int) -> None:
    """Trains; from a step on, forward passes of one rank take longer.

    Args:
        config: The run.
        slow: The rank.
        seconds: How much longer its passes take.
        window: The number of steps after which a slow rank is named, instead of 100.
    """
    import os

    from bigtrain.health import stragglers
    from bigtrain.train.trainer import Trainer

    stragglers.WINDOW, stragglers.SLOW_STEPS = window, window * 9 // 10
    stragglers.RECOVERED_STEPS = window // 2

    rank = int(os.environ["RANK"])
    os.environ["BIGTRAIN_NODE"] = f"node-{rank // 2}"
    plain = Trainer._forward_step

    def forward_step_of(self: Any, step: int, batch: Any) -> Any:
        forward_step = plain(self, step, batch)

        def slowly(microbatches: Any, stage: Any) -> Any:
            if rank == slow and step >= SLOW_FROM:
                time.sleep(seconds)
            return forward_step(microbatches, stage)

        return slowly

    Trainer._forward_step = forward_step_of  # type: ignore[method-assign]
    train_rank(config)


def _config(corpus: Path, runs: Path, *, steps: int, **parallel: Any) -> RunConfig:
    return tiny_config(
        corpus,
        runs,
        model={"num_layers": 2},
        train={"steps": steps, "global_batch_size": 4, "micro_batch_size": 1},
        parallel={"device": "cpu", **parallel},
        checkpoint={"every": steps},
        validation={"every": steps, "samples": 4},
        guard={"sigmas": 0},
    )


def _stragglers(config: RunConfig) -> list[dict[str, Any]]:
    events = read_lines(config.run_dir / "attempts.jsonl")
    return [event for event in events if event["event"] == "straggler"]


def _check_rank_2_is_named(config: RunConfig, *, window: int) -> None:
    run_ranks(_train_with_a_slow_rank, 4, config, 2, 0.06, window)
    [event] = _stragglers(config)
    assert (event["rank"], event["ranks"], event["node"]) == (2, [2], "node-1")
    assert event["step"] <= SLOW_FROM + window
    assert event["ratio"] > 1.2
    lines = read_metrics(config.run_dir / "metrics.jsonl", "train")
    late = [line for line in lines if line["step"] > SLOW_FROM]
    assert sum(line["slowest_rank"] == 2 for line in late) > 0.9 * len(late)
    assert all(line["slowest_rank_ratio"] >= 1 for line in lines)
    assert all(0 < line["median_rank_seconds"] <= line["slowest_rank_seconds"] for line in lines)
    # Every sink, wandb among them, receives it.
    [told] = read_metrics(config.run_dir / "metrics.jsonl", "straggler")
    assert (told["rank"], told["node"], told["step"]) == (2, "node-1", event["step"])


@pytest.mark.parametrize("zero", [0, 1])
def test_a_slow_rank_is_named_with_its_node(corpus: Path, tmp_path: Path, zero: int) -> None:
    _check_rank_2_is_named(_config(corpus, tmp_path, steps=15, zero=zero), window=10)


@pytest.mark.slow
def test_a_slow_rank_is_named_within_100_steps(corpus: Path, tmp_path: Path) -> None:
    """Takes 20 s."""
    _check_rank_2_is_named(_config(corpus, tmp_path, steps=106), window=100)


@pytest.mark.slow
def test_the_ranks_of_a_slow_copy_of_the_model_are_named_together(
    corpus: Path, tmp_path: Path
) -> None:
    config = _config(corpus, tmp_path, steps=15, tensor=2)
    run_ranks(_train_with_a_slow_rank, 4, config, 1, 0.15, 10)
    [event] = _stragglers(config)
    assert (event["ranks"], event["node"]) == ([0, 1], "node-0")


@pytest.mark.parametrize(
    ("world_size", "parallel"), [(1, {}), (2, {"zero": 2}), (2, {"tensor": 2})]
)
def test_where_ranks_cannot_be_told_apart_no_figures_are_invented(
    corpus: Path, tmp_path: Path, world_size: int, parallel: dict[str, Any]
) -> None:
    config = _config(corpus, tmp_path, steps=3, **parallel)
    run_ranks(train_rank, world_size, config)
    line, *_ = read_metrics(config.run_dir / "metrics.jsonl", "train")
    assert not [name for name in line if "rank" in name]


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ((2,), "rank 2 on n1 is slow: forward and backward take 1.30 times"),
        ((0, 1), "ranks 0 to 1 on n1, which hold one copy of the model and wait for each other, a"),
        ((1, 5), "ranks 1, 5 on n1, which"),
    ],
)
def test_the_line_in_the_log_names_ranks_and_nodes(ranks: tuple[int, ...], expected: str) -> None:
    from bigtrain.train.rank_times import render_straggler

    assert render_straggler(Straggler(ranks, 1.3), nodes="n1").startswith(expected)
