"""Instruction tuning: only answers are learned, rows do not see each other, any layout agrees."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.resume_rules import check_resume
from bigtrain.runs.documents_of_step import find_samples, render_samples
from bigtrain.runs.report_figures import read_report
from bigtrain.track.metrics_file import read_metrics
from tests.label_tables import make_answer_table
from tests.ranks import run_ranks
from tests.runs import hash_tensors, in_layout, merge, tiny_config, train_rank

LENGTH = 64


@pytest.fixture(scope="module")
def table(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of prompts with answers."""
    folder = tmp_path_factory.mktemp("answers")
    return make_answer_table(folder / "answers", corpus / "train" / "tokenizer.model", rows=300)


def _config(table: Path, runs: Path, **sections: Any) -> RunConfig:
    values: dict[str, Any] = {
        "model": {"max_sequence_length": LENGTH, "num_layers": 2},
        "data": {"packing": "answers", "sequence_length": LENGTH},
        "objective": {"kind": "answer_only"},
        "optim": {"learning_rate": 1e-2, "schedule": "constant"},
        "train": {"steps": 20},
        "validation": {"every": 10},
    }
    return tiny_config(table, runs, **merge(values, sections))


def _train(config: RunConfig, world_size: int = 1) -> list[dict[str, Any]]:
    run_ranks(train_rank, world_size, config)
    file = config.run_dir / "metrics.jsonl"
    return [*read_metrics(file, "train"), *read_metrics(file, "validation")]


@pytest.fixture(scope="module")
def one_process(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of one process, and its figures."""
    config = _config(table, tmp_path_factory.mktemp("runs"))
    return config, _train(config)


def test_answers_are_learned_and_only_their_tokens_are_counted(one_process: Any) -> None:
    config, lines = one_process
    first, last = lines[0], lines[19]
    assert first["loss"] == pytest.approx(6.2, abs=0.3)  # log 500
    assert last["loss"] < 1.0
    assert lines[-1]["answer_accuracy"] > 0.6
    assert last["tokens"] < 20 * 8 * LENGTH / 3
    assert read_report(config.run_dir).corpus_tokens > 1000


@pytest.mark.parametrize("layout", ["tensor=2", "data=2 zero=1", "pipeline=2"])
def test_a_layout_gives_the_figures_of_one_process(
    one_process: Any, table: Path, tmp_path: Path, layout: str
) -> None:
    config, world_size = in_layout(_config(table, tmp_path), layout)
    for ours, theirs in zip(_train(config, world_size), one_process[1], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert ours.get("tokens") == theirs.get("tokens")


def test_a_resumed_run_ends_with_the_same_bits(
    one_process: Any, table: Path, tmp_path: Path
) -> None:
    config, _ = one_process
    half = _config(table, tmp_path, train={"steps": 10})
    _train(half)
    _train(_config(table, tmp_path))
    saved = "checkpoints/step-00000020"
    assert hash_tensors(half.run_dir / saved) == hash_tensors(config.run_dir / saved)


def test_the_rows_of_a_step_are_named(one_process: Any) -> None:
    config, _ = one_process
    samples = list(find_samples(config.run_dir, 3))
    assert len(samples) == 8
    assert all(1 < len(sample.rows) < 12 and not sample.documents for sample in samples)
    lines = list(render_samples(samples[:1]))
    row = samples[0].rows[0]
    assert lines[1] == (
        f"  rows.jsonl, line {row.line} (table row {row.row}): {row.num_tokens} tokens"
    )
    assert row.text.split()[-1].strip() in ("yes", "no")


def sums_packed_and_alone(config: RunConfig, table: Path) -> tuple[float, float]:
    """The losses of all answers of packed rows, and of rows that are alone; for ``run_ranks``."""
    import torch

    from bigtrain.data.label_source import open_label_source
    from bigtrain.data.microbatch import Microbatch
    from bigtrain.objectives.forward import make_forward_step
    from bigtrain.objectives.objective import LOSS_SUM, LossScales
    from bigtrain.objectives.table import objective_of
    from tests.distributed.steps import engine_of

    packed, alone = [], []
    with open_label_source(str(table / "train"), packing="answers", sequence_length=LENGTH) as it:
        rows = it.read_answers(np.arange(8), pad=0)
        names = ("tokens", "targets", "weights", "positions", "documents")
        tensors = [torch.from_numpy(getattr(rows, name)) for name in names]
        packed += [Microbatch(*(t[n : n + 2] for t in tensors)) for n in range(0, 8, 2)]
        for row in np.concatenate([it.rows_of(sample) for sample in range(8)]):
            read = it.labels.read(np.array([row]))
            tokens, targets = (torch.zeros(1, LENGTH, dtype=torch.int64) for _ in range(2))
            weights = torch.zeros(1, LENGTH)
            size = len(read.tokens) - 1
            tokens[0, :size] = torch.from_numpy(read.tokens[:-1])
            targets[0, :size] = torch.from_numpy(read.tokens[1:])
            weights[0, :size] = torch.from_numpy(read.is_answer[1:]).float()
            alone.append(Microbatch(*(t.expand(2, -1) for t in (tokens, targets, weights))))
    with engine_of(config) as (engine, _, _):
        forward_step = make_forward_step(
            objective_of(config),
            config,
            device=torch.device("cpu"),
            scales=LossScales(),
            measure=True,
        )
        totals = [
            sum(float(report[LOSS_SUM]) for report in engine.evaluate(forward_step, microbatches))
            for microbatches in (packed, alone)
        ]
    return totals[0], totals[1] / 2


def test_packed_rows_do_not_see_each_other(table: Path, tmp_path: Path) -> None:
    config = _config(table, tmp_path, model={"init_std": 0.5})
    ((packed, alone),) = run_ranks(sums_packed_and_alone, 1, config, table)
    assert packed == pytest.approx(alone, rel=1e-5)


def test_objectives_that_do_not_fit_are_refused(table: Path, tmp_path: Path) -> None:
    for sections, match in (
        ({"objective": {"kind": "pretraining"}}, r"data\.packing=answers is for objective\.kind="),
        ({"data": {"packing": "concat"}}, r"objective\.kind=answer_only does not read data\.pack"),
        ({"model": {"kind": "bert"}}, r"predicts next tokens, and model\.kind=bert does not; set"),
    ):
        with pytest.raises(ValueError, match=match):
            _config(table, tmp_path, **sections)
    saved = _config(table, tmp_path)
    plain = {"data": {"packing": "concat"}, "objective": {"kind": "pretraining"}}
    with pytest.raises(ConfigError, match=r"objective\.kind from 'answer_only' to 'pretraining'"):
        check_resume(saved.model_dump(mode="json"), _config(table, tmp_path, **plain))
