"""Every model gives the same losses when split over tensor ranks, the sequence and stages."""

from pathlib import Path
from typing import Any

import pytest

from bigtrain.track.metrics_file import read_metrics
from tests.ranks import run_ranks
from tests.runs import CLASSIC_BERT, LLAMA, bert_config, tiny_config, train_rank

MODELS: dict[str, dict[str, Any]] = {
    "llama with head norms": {**LLAMA, "qk_norm": True, "tie_embeddings": False},
    "gpt with head norms": {"qk_norm": True, "norm": "layernorm"},
    "bert": {"kind": "bert"},
    "classic bert": CLASSIC_BERT,
}
SPLITS: dict[str, dict[str, Any]] = {
    "tensor 2, gradients shared": {"tensor": 2, "zero": 2},
    "tensor 2, sequence": {"tensor": 2, "sequence": True},
    "stages of 1 and 3 layers": {"pipeline": 2, "first_stage_layers": 1, "last_stage_layers": 3},
}


def figures(
    folder: Path, corpus: Path, model: dict[str, Any], parallel: dict[str, Any], **train: Any
) -> list[float]:
    """Loss and gradient norm of each of four steps, in a layout."""
    make = bert_config if model.get("kind") == "bert" else tiny_config
    config = make(
        corpus,
        folder,
        model={"kind": "gpt", **model},
        parallel={"device": "cpu", **parallel},
        train={"steps": 4, "global_batch_size": 4, **train},
        validation={"every": 1000, "samples": 1},
        checkpoint={"every": 1000},
    )
    run_ranks(train_rank, config.parallel.model_parallel_size, config)
    events = read_metrics(config.run_dir / "metrics.jsonl", "train")
    return [event[key] for event in events for key in ("loss", "grad_norm")]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.startswith("gpt") else ())
        for name in MODELS
    ],
)
def test_a_split_model_gives_the_losses_of_the_unsplit_model(
    name: str, corpus: Path, pair_corpus: Path, tmp_path: Path
) -> None:
    model = MODELS[name]
    text = pair_corpus if "kind" in model else corpus
    unsplit = figures(tmp_path / "unsplit", text, model, {})
    assert len(unsplit) == 8
    for split, parallel in SPLITS.items():
        assert figures(tmp_path / split, text, model, parallel) == pytest.approx(
            unsplit, rel=1e-5
        ), split


@pytest.mark.parametrize(
    "sequence",
    [
        pytest.param(False, id="tensor 2", marks=pytest.mark.slow),
        pytest.param(True, id="tensor 2, sequence"),
    ],
)
def test_recomputation_uses_the_dropout_masks_of_the_forward_pass(
    sequence: bool, corpus: Path, tmp_path: Path
) -> None:
    model = {**LLAMA, "dropout": 0.1, "num_layers": 2}
    parallel = {"tensor": 2, "sequence": sequence}
    kept, selective, full = (
        figures(tmp_path / recompute, corpus, model, parallel, recompute=recompute, steps=3)
        for recompute in ("none", "selective", "full")
    )
    assert kept == selective == full
