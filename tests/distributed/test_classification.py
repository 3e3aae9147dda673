"""Classifiers learn a task of two classes, from a pretrained model too, in every layout."""

import json
from pathlib import Path
from typing import Any

import pytest

from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.schema import WEIGHT
from bigtrain.checkpoint.storage_folder import open_folder
from bigtrain.config import ConfigError, RunConfig
from bigtrain.runs.report_figures import read_report
from bigtrain.runs.report_table import render_next_commands, render_report
from bigtrain.track.metrics_file import read_metrics
from tests.label_tables import make_label_table
from tests.ranks import RankError, run_ranks
from tests.runs import bert_config, hash_tensors, in_layout, merge, tiny_config, train_rank

LENGTH = 64
COMPARED_STEPS = 20
"""Later, when the loss falls fast, rounding in another order changes the gradients visibly."""
HEADS = {"bert": {"classifier.weight", "classifier.bias"}, "gpt": {"classifier.weight"}}


@pytest.fixture(scope="module")
def table(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of pairs of two classes."""
    folder = tmp_path_factory.mktemp("classes")
    return make_label_table(folder / "pairs", corpus / "train" / "tokenizer.model", rows=400)


def _config(table: Path, runs: Path, kind: str, **sections: Any) -> RunConfig:
    values: dict[str, Any] = {
        "model": {"kind": kind, "max_sequence_length": LENGTH, "num_layers": 2},
        "data": {"packing": "labels", "sequence_length": LENGTH},
        "objective": {"kind": "classification", "labels": ["no", "yes"]},
        "optim": {"learning_rate": 1e-3, "schedule": "constant"},
        "train": {"steps": 50, "global_batch_size": 16},
        "validation": {"every": 10, "samples": 60},
        "checkpoint": {"every": 25},
    }
    return tiny_config(table, runs, **merge(values, sections))


def _train(config: RunConfig, world_size: int = 1) -> list[dict[str, Any]]:
    run_ranks(train_rank, world_size, config)
    file = config.run_dir / "metrics.jsonl"
    return [*read_metrics(file, "train"), *read_metrics(file, "validation")]


def _weights(folder: Path) -> set[str]:
    return set(CheckpointReader(open_folder(folder)).names(WEIGHT))


@pytest.fixture(scope="module", params=["bert", "gpt"])
def one_process(
    request: pytest.FixtureRequest, table: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A run of one process, and its figures."""
    config = _config(table, tmp_path_factory.mktemp("runs"), request.param)
    return config, _train(config)


def test_a_small_classifier_learns_its_task_in_50_steps(one_process: Any) -> None:
    config, lines = one_process
    assert lines[0]["loss"] == pytest.approx(0.69, abs=0.1)  # log 2
    assert lines[49]["loss"] < 0.3
    validation = lines[-1]
    assert validation["accuracy"] > 0.9
    assert validation["f1"] > 0.9
    assert validation["recall/yes"] > 0.9
    assert validation["matthews"] > 0.8
    heads = {
        name
        for name in _weights(config.run_dir / "checkpoints" / "step-00000050")
        if name.startswith(("lm_head", "output_layer", "binary_head", "classifier"))
    }
    assert heads == HEADS[config.model.kind]


@pytest.mark.parametrize(
    "layout",
    [
        "tensor=2",
        pytest.param("tensor=2 sequence=true", marks=pytest.mark.slow),
        "data=2 zero=1",
        pytest.param("pipeline=2", marks=pytest.mark.slow),
        pytest.param("data=2 zero=3", marks=pytest.mark.slow),
    ],
)
def test_a_layout_gives_the_figures_of_one_process(
    one_process: Any, table: Path, tmp_path: Path, layout: str
) -> None:
    base, reference = one_process
    short = _config(table, tmp_path, base.model.kind, train={"steps": COMPARED_STEPS})
    config, world_size = in_layout(short, layout)
    compared = [line for line in reference if line["step"] <= COMPARED_STEPS]
    for ours, theirs in zip(_train(config, world_size), compared, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert ours["accuracy"] == theirs["accuracy"]
        assert ours.get("tokens") == theirs.get("tokens")
        if "grad_norm" in theirs:
            assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


def test_a_resumed_run_ends_with_the_same_bits(
    one_process: Any, table: Path, tmp_path: Path
) -> None:
    config, _ = one_process
    _train(_config(table, tmp_path, config.model.kind, train={"steps": 25}))
    again = _config(table, tmp_path, config.model.kind)
    _train(again)
    saved = "checkpoints/step-00000050"
    assert hash_tensors(again.run_dir / saved) == hash_tensors(config.run_dir / saved)


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_a_classifier_begins_from_a_pretrained_model_with_a_new_head(
    kind: str, table: Path, corpus: Path, pair_corpus: Path, tmp_path: Path
) -> None:
    short = {"model": {"max_sequence_length": LENGTH, "num_layers": 2}, "train": {"steps": 3}}
    make, text = (bert_config, pair_corpus) if kind == "bert" else (tiny_config, corpus)
    pretrained = make(text, tmp_path / "pretrained", **short)
    run_ranks(train_rank, 1, pretrained)
    load = {"load": str(pretrained.run_dir), "load_weights_only": True}
    frozen = {"learning_rate": 1e-30, "schedule": "constant", "weight_decay": 0.0}
    config = _config(
        table,
        tmp_path,
        kind,
        data={"tokenizer": None},
        checkpoint=load,
        optim=frozen,
        train={"steps": 1},
    )
    run_ranks(train_rank, 1, config)
    before = CheckpointReader(open_folder(pretrained.run_dir / "checkpoints" / "step-00000003"))
    after = CheckpointReader(open_folder(config.run_dir / "checkpoints" / "step-00000001"))
    names = set(after.names(WEIGHT))
    assert names - set(before.names(WEIGHT)) == HEADS[kind]
    for name in names - HEADS[kind]:
        assert (after.read_tensor(WEIGHT, name) == before.read_tensor(WEIGHT, name)).all()
    assert 0.01 < after.read_tensor(WEIGHT, "classifier.weight").std() < 0.03  # model.init_std


def test_classes_that_do_not_fit_are_refused(table: Path, tmp_path: Path) -> None:
    for sections, match in (
        ({"objective": {"kind": "pretraining", "labels": []}}, r"data\.packing=labels is for obj"),
        ({"data": {"packing": "concat"}}, r"objective\.kind=classification does not read data\.pa"),
        ({"objective": {"labels": []}}, r"objective\.labels must name at least two classes"),
        ({"objective": {"labels": ["a", "a"]}}, r"objective\.labels names a twice"),
        ({"objective": {"kind": "answer_only"}}, r"objective\.labels is for objective\.kind=class"),
    ):
        with pytest.raises(ValueError, match=match):
            _config(table, tmp_path, "bert", **sections)
    turned = _config(table, tmp_path, "bert", objective={"labels": ["yes", "no"]})
    with pytest.raises(
        (ConfigError, RankError), match=r"objective\.labels=yes,no: .* has no,yes; set objective"
    ):
        run_ranks(train_rank, 1, turned)


def test_validation_reports_each_class(one_process: Any) -> None:
    config, _ = one_process
    lines = map(json.loads, (config.run_dir / "metrics.jsonl").read_text().splitlines())
    (*_, last) = (line for line in lines if line.get("split") == "validation")
    for name in ("precision", "recall", "f1"):
        assert {name, f"{name}/no", f"{name}/yes"} <= set(last)
        assert last[name] == pytest.approx((last[f"{name}/no"] + last[f"{name}/yes"]) / 2)
    report = read_report(config.run_dir)
    cells = [str(cell) for cell in render_report(report, exported=None).columns[1].cells]
    assert f"{last['f1']:.3f} mean of classes (no {last['f1/no']:.3f}" in "\n".join(cells)
    commands = render_next_commands(report, exported=None)
    assert "export-hf" not in commands and "generate" not in commands


def logits_of_both(config: RunConfig, pretraining: RunConfig) -> tuple[Any, Any]:
    """The logits of a batch, ours and of transformers' classifier; for ``run_ranks``."""
    import torch
    import transformers

    from bigtrain.data.batches import TrainingData
    from bigtrain.objectives.table import objective_of
    from tests.distributed.hugging_face import (
        ONE_RANK,
        build_transformers_model,
        build_unsplit_model,
        one_rank,
    )

    data = TrainingData(config, layout=ONE_RANK, data_rank=0)
    (microbatch,) = data.batch(0).microbatches
    data.close()
    with one_rank(), torch.no_grad():
        module, _ = build_unsplit_model(config)
        pretrained = build_transformers_model(pretraining, build_unsplit_model(pretraining)[1])
        head = module.classifier
        inputs = {"input_ids": microbatch.tokens, "attention_mask": microbatch.padding_mask.long()}
        settings = pretrained.config
        settings.num_labels = len(config.objective.labels)
        if config.model.kind == "bert":
            head.bias.normal_()
            twin: Any = transformers.MegatronBertForSequenceClassification(settings)
            twin.bert.load_state_dict(pretrained.bert.state_dict())
            twin.classifier.load_state_dict(head.state_dict())
            inputs["token_type_ids"] = microbatch.token_types
        else:
            settings.pad_token_id = 0
            twin = transformers.GPT2ForSequenceClassification(settings)
            twin.transformer.load_state_dict(pretrained.transformer.state_dict())
            twin.score.load_state_dict(head.state_dict())
        inputs_of_ours = objective_of(config).model_inputs(microbatch, torch.device("cpu"))
        ours = module.eval()(*inputs_of_ours)
        theirs = twin.eval()(**inputs).logits
    return ours.tolist(), theirs.tolist()


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_a_classifier_computes_what_that_of_transformers_computes(
    kind: str, table: Path, tmp_path: Path
) -> None:
    sections = {"model": {"init_std": 0.3}, "train": {"micro_batch_size": 16}}
    config = _config(table, tmp_path, kind, **sections)
    packing = "pairs" if kind == "bert" else "concat"
    plain = {"objective": {"kind": "pretraining", "labels": []}, "data": {"packing": packing}}
    pretraining = _config(table, tmp_path, kind, **merge(sections, plain))
    ((ours, theirs),) = run_ranks(logits_of_both, 1, config, pretraining)
    assert len(ours) == 16
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=1e-4, rel=1e-4)
    assert max(abs(it) for row in ours for it in row) > 0.5
