"""Each target has the same weight in rows of any length, and packed documents stay separate."""

from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import RunConfig
from bigtrain.runs.report_figures import read_report
from bigtrain.runs.report_table import render_report
from bigtrain.track.metrics_file import read_metrics
from data_tools.samples.build_sample_table import build_sample_table
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from tests.ranks import run_ranks
from tests.runs import bert_config, tiny_config, train_rank

PAIR_LENGTH = 128
PACKINGS: dict[str, dict[str, Any]] = {
    "pad": {"packing": "pad"},
    "bestfit": {"packing": "bestfit"},
    "document attention": {"document_attention": True},
    "pairs": {"packing": "pairs", "sequence_length": PAIR_LENGTH},
}


@pytest.fixture(scope="module")
def planned(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus, with sample tables whose rows are longer than most documents."""
    out = tmp_path_factory.mktemp("planned") / "corpus"
    tokenizer, texts = corpus / "train" / "tokenizer.model", [str(corpus.parent / "texts")]
    options = ShardOptions(validation_percent=20, sentences=True)
    shard_corpus(texts, tokenizer=tokenizer, out=out, options=options)
    for split in ("train", "validation"):
        for mode in ("pad", "bestfit"):
            build_sample_table(out / split, mode=mode, sequence_length=32)
        # Pairs of many lengths give batches of different widths and numbers of masked tokens.
        build_sample_table(
            out / split, mode="pairs", sequence_length=PAIR_LENGTH, short_probability=0.7
        )
    return out


def _config(corpus: Path, runs: Path, packing: str, **parallel: Any) -> RunConfig:
    make = bert_config if packing == "pairs" else tiny_config
    longest = PACKINGS[packing].get("sequence_length", 32)
    return make(
        corpus,
        runs,
        model={"max_sequence_length": longest},
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
def test_every_target_has_the_same_weight_in_every_layout(
    planned: Path, tmp_path: Path, packing: str
) -> None:
    one_process = _train(_config(planned, tmp_path / "one", packing), 1)
    assert (
        one_process[4]["tokens"] < 5 * 8 * 32
        if packing == "pad"
        else one_process[4]["tokens"] > 1000
    )
    losses = [name for name in one_process[0] if name.endswith("loss")]
    assert losses == (["loss", "mlm_loss", "sentence_loss"] if packing == "pairs" else ["loss"])
    for name, world_size, parallel in [("data", 2, {}), ("pipeline", 2, {"pipeline": 2})]:
        lines = _train(_config(planned, tmp_path / name, packing, **parallel), world_size)
        for ours, theirs in zip(lines, one_process, strict=True):
            for loss in losses:
                assert ours[loss] == pytest.approx(theirs[loss], abs=1e-5)
            assert ours.get("tokens") == theirs.get("tokens")
            assert [ours.get(name) for name in theirs if name.endswith("accuracy")] == [
                value for name, value in theirs.items() if name.endswith("accuracy")
            ]
            if "grad_norm" in theirs:
                assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


def test_the_report_of_a_bert_shows_its_accuracies(planned: Path, tmp_path: Path) -> None:
    config = _config(planned, tmp_path, "pairs")
    [*_, validation] = _train(config, 1)
    report = read_report(config.run_dir)
    names = [str(cell) for cell in render_report(report, exported=None).columns[0].cells]
    assert {"masked tokens", "sentence pairs"} < set(names)
    assert report.validation["mlm_accuracy"] == validation["mlm_accuracy"]
    assert 0 < validation["commonest_accuracy"] < 0.5
    assert report.validation_loss == pytest.approx(
        validation["mlm_loss"] + validation["sentence_loss"]
    )
