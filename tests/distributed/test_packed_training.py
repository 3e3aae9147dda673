"""Unequally filled rows weigh by their targets, and documents stay apart, in any layout."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import RunConfig
from bigtrain.track.metrics_file import read_metrics
from data_tools.samples.job import build_sample_table
from tests.ranks import run_ranks
from tests.runs import tiny_config, train_rank

PACKINGS = {
    "pad": {"packing": "pad"},
    "bestfit": {"packing": "bestfit"},
    "document attention": {"document_attention": True},
}


@pytest.fixture(scope="module")
def planned(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus, with tables of rows long enough that the last of a document is never full."""
    folder = Path(shutil.copytree(corpus, tmp_path_factory.mktemp("planned") / "corpus"))
    for split in ("train", "validation"):
        for mode in ("pad", "bestfit"):
            build_sample_table(folder / split, mode=mode, sequence_length=32)
    return folder


def _config(corpus: Path, runs: Path, packing: str, **parallel: Any) -> RunConfig:
    return tiny_config(
        corpus,
        runs,
        data=PACKINGS[packing],
        train={"steps": 5},
        validation={"every": 5},
        parallel={**parallel, "device": "cpu"},
    )


def _train(config: RunConfig, world_size: int) -> list[dict[str, Any]]:
    run_ranks(train_rank, world_size, config)
    file = config.run_dir / "metrics.jsonl"
    return [*read_metrics(file, "train"), *read_metrics(file, "validation")]


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_target_weighs_the_same_in_every_layout(
    planned: Path, tmp_path: Path, packing: str
) -> None:
    alone = _train(_config(planned, tmp_path / "one", packing), 1)
    assert alone[4]["tokens"] < 5 * 8 * 32 if packing == "pad" else alone[4]["tokens"] > 1000
    for name, world_size, parallel in [("data", 2, {}), ("pipeline", 2, {"pipeline": 2})]:
        lines = _train(_config(planned, tmp_path / name, packing, **parallel), world_size)
        for ours, theirs in zip(lines, alone, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
            assert ours.get("tokens") == theirs.get("tokens")
            if "grad_norm" in theirs:
                assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
