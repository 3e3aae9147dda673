"""Every layout gives the same losses, gradient norms and parameters."""

from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import RunConfig
from bigtrain.track.metrics_file import read_metrics
from tests.ranks import run_ranks
from tests.runs import hash_tensors, tiny_config, train_rank

STEPS = 30

LAYOUTS = {
    "tensor=2": (2, {"tensor": 2}),
    "pipeline=2": (2, {"pipeline": 2}),
    "data=2": (2, {}),
    "data=2 zero=1": (2, {"zero": 1}),
    "tensor=2 pipeline=2": (4, {"tensor": 2, "pipeline": 2}),
}


def _train(config: RunConfig, world_size: int) -> dict[str, list[dict[str, Any]]]:
    run_ranks(train_rank, world_size, config)
    file = config.run_dir / "metrics.jsonl"
    return {split: read_metrics(file, split) for split in ("train", "validation")}


@pytest.fixture(scope="module")
def one_process(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run in one process."""
    config = tiny_config(corpus, tmp_path_factory.mktemp("runs"))
    return config, _train(config, 1)


def test_one_process_learns(one_process: Any) -> None:
    _, metrics = one_process
    losses = [line["loss"] for line in metrics["train"]]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0] - 0.5
    assert metrics["validation"][-1]["loss"] < metrics["validation"][0]["loss"] < losses[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_the_losses_of_one_process(
    layout: str, one_process: Any, corpus: Path, tmp_path: Path
) -> None:
    world_size, parallel = LAYOUTS[layout]
    config = tiny_config(corpus, tmp_path, parallel={**parallel, "device": "cpu"})
    metrics = _train(config, world_size)
    _, reference = one_process
    for split, lines in reference.items():
        assert [line["step"] for line in metrics[split]] == [line["step"] for line in lines]
        for ours, theirs in zip(metrics[split], lines, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
    for ours, theirs in zip(metrics["train"], reference["train"], strict=True):
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


@pytest.fixture(scope="module")
def one_process_in_bf16(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run in one process, in bf16."""
    config = _bf16_config(corpus, tmp_path_factory.mktemp("runs"), {})
    return _train(config, 1)["train"]


def _bf16_config(corpus: Path, runs: Path, parallel: dict[str, int]) -> RunConfig:
    return tiny_config(
        corpus,
        runs,
        parallel={**parallel, "device": "cpu"},
        train={"precision": "bf16", "steps": 6},
        optim={"decay_steps": 30},
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bf16_reduces_in_fp32(
    layout: str, one_process_in_bf16: Any, one_process: Any, corpus: Path, tmp_path: Path
) -> None:
    world_size, parallel = LAYOUTS[layout]
    lines = _train(_bf16_config(corpus, tmp_path, parallel), world_size)["train"]
    # Data ranks compute the same bf16 products as one process; only fp32 sums are split.
    # Tensor and pipeline ranks round partial results to bf16, whose unit is 2⁻⁸.
    tolerance = 1e-6 if "data" in layout else 2**-8
    for ours, theirs in zip(lines, one_process_in_bf16, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=tolerance)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=tolerance)
    _, in_fp32 = one_process
    for ours, theirs in zip(lines, in_fp32["train"], strict=False):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=2e-2)
        assert ours["loss"] != theirs["loss"]


def test_two_identical_runs_give_equal_bits(one_process: Any, corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, tmp_path)
    metrics = _train(config, 1)
    reference_config, reference = one_process
    for split in reference:
        assert [l["loss"] for l in metrics[split]] == [l["loss"] for l in reference[split]]  # noqa: E741
    last = f"checkpoints/step-{STEPS:08d}"
    assert hash_tensors(config.run_dir / last) == hash_tensors(reference_config.run_dir / last)
