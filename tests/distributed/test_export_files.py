"""The files of an export: shards and their index, bf16, the model card; and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bigtrain.runs.losses_of_step import losses_of_step
from bigtrain.track.metrics_file import read_metrics
from data_tools.corpus import open_corpus
from tests.distributed.hugging_face_folders import save_random, tensors_of
from tests.distributed.test_import import import_folder
from tests.ranks import RankError, run_ranks
from tests.runs import tiny_config, train_rank


def export(checkpoint: Path, out: Path, **options: Any) -> Any:
    """Exports a checkpoint; for ``run_ranks``."""
    from bigtrain.convert.export import export_hugging_face

    return export_hugging_face(checkpoint, out, **options)


def load(folder: Path) -> dict[str, Any]:
    """What transformers loads from an export; for ``run_ranks``."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    tensors = {n: p.detach().float().numpy() for n, p in model.named_parameters()}
    return {"dtype": str(model.dtype), "tensors": tensors}


@pytest.fixture(scope="module")
def imported(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a random Llama."""
    place = tmp_path_factory.mktemp("imported")
    tokenizer = corpus.parent / "tokenizer.model"
    run_ranks(save_random, 1, "llama untied", place / "theirs", tokenizer=tokenizer)
    run_ranks(import_folder, 1, place / "theirs", place / "checkpoint")
    return place / "checkpoint"


def test_shards_of_bf16_are_what_transformers_loads(imported: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_ranks(export, 1, imported, whole)
    options = {"precision": "bf16", "max_shard_bytes": 40_000}
    done = run_ranks(export, 1, imported, parts, **options)[0]
    assert done.logits.largest < 1e-5 and done.dtype == "bfloat16"
    files = sorted(parts.glob("*.safetensors"))
    assert len(files) == done.files > 3
    assert all(file.stat().st_size < 40_000 + 4_000 for file in files)
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    exact = tensors_of(whole)
    assert set(index["weight_map"]) == set(exact)
    assert set(index["weight_map"].values()) == {file.name for file in files}
    assert index["metadata"]["total_size"] == 2 * sum(each.size for each in exact.values())
    found = run_ranks(load, 1, parts)[0]
    assert found["dtype"] == "torch.bfloat16"
    for name, values in exact.items():
        loaded = found["tensors"][name]
        assert np.abs(loaded - values).max() <= np.abs(values).max() * 2**-8, name
        assert not (loaded.view(np.uint32) & 0xFFFF).any(), "all values are bf16"


def test_the_model_card_has_the_facts_of_the_run(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, tmp_path, train={"steps": 4}, validation={"every": 2})
    run_ranks(train_rank, 1, config)
    losses = losses_of_step(config.run_dir, 4)
    run_ranks(_export_with_losses, 1, config.run_dir, tmp_path / "out", losses)
    card = (tmp_path / "out/README.md").read_text()
    with open_corpus(corpus / "train") as opened:
        assert opened.manifest.fingerprint in card
    metrics = config.run_dir / "metrics.jsonl"
    for split in ("train", "validation"):
        loss = read_metrics(metrics, split)[-1]["loss"]
        assert f"| {split} loss | {loss:.4f} nats |" in card
    assert "| steps | 4 (4 updates) |" in card
    assert "| trained on | 32 samples, 1,024 tokens |" in card
    assert "learning_rate: 0.003" in card
    assert str(tmp_path) not in card, "no path of this machine"
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-generation\n")


def _export_with_losses(run: Path, out: Path, losses: dict[str, float]) -> Any:
    return export(run, out, losses_of=lambda step: losses if step == 4 else {})


def test_losses_up_to_a_step_are_found_from_run_and_checkpoint(tmp_path: Path) -> None:
    lines = [
        {"attempt": 1, "split": split, "step": step, "loss": step + (split == "train")}
        for step in (1, 2, 3)
        for split in ("train", "validation")
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    checkpoint = tmp_path / "checkpoints/step-00000002"
    checkpoint.mkdir(parents=True)
    assert losses_of_step(checkpoint, 2) == {"train loss": 3.0, "validation loss": 2.0}
    assert losses_of_step(tmp_path, 3)["train loss"] == 4.0
    assert losses_of_step("s3://bucket/run", 3) == losses_of_step(tmp_path / "other", 3) == {}


def export_layer_by_layer(checkpoint: Path, out: Path, **options: Any) -> Any:
    """Exports as if the model were large; for ``run_ranks``."""
    from bigtrain.convert import logit_check

    logit_check.WHOLE_MODEL_BYTES = 0
    return export(checkpoint, out, **options)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_large_model_is_verified_layer_by_layer(
    precision: str, imported: Path, tmp_path: Path
) -> None:
    done = run_ranks(export_layer_by_layer, 1, imported, tmp_path / "out", precision=precision)[0]
    assert done.logits.layer_by_layer and done.logits.compared > 0
    assert done.logits.largest < 1e-5


def export_with_broken_rule(kind: str, checkpoint: Path, out: Path) -> Any:
    """Exports with a mapping that gives other values; for ``run_ranks``."""
    from bigtrain.convert import mapping

    rule = getattr(mapping, kind)
    right = rule.to_hugging_face
    rule.to_hugging_face = lambda self, tensor: right(self, tensor).flip(0)
    return export_layer_by_layer(checkpoint, out)


def export_with_wrong_bytes(_: str, checkpoint: Path, out: Path) -> Any:
    """Exports with a writer that loses the sign of one value; for ``run_ranks``."""
    from bigtrain.convert import export as module

    def changed(tensors: Any) -> Any:
        for name, tensor in tensors:
            if name == "model.layers.2.mlp.up_proj.bias":
                tensor[5] = -tensor[5]
            yield name, tensor

    write = module.write_shards
    module.write_shards = lambda folder, shapes, tensors, **options: write(
        folder, shapes, changed(tensors), **options
    )
    return export(checkpoint, out)


@pytest.mark.parametrize(
    ("broken", "kind", "message"),
    [
        (export_with_broken_rule, "Identity", "logits differ from the checkpoint's by up to"),
        (export_with_broken_rule, "GroupedQkv", "logits differ from the checkpoint's by up to"),
        (export_with_broken_rule, "PaddedRows", "logits differ from the checkpoint's by up to"),
        (
            export_with_wrong_bytes,
            "",
            "model.safetensors: model.layers.2.mlp.up_proj.bias is not what was written",
        ),
    ],
)
def test_an_export_that_differs_is_refused_and_leaves_no_files(
    broken: Callable[..., Any], kind: str, message: str, imported: Path, tmp_path: Path
) -> None:
    with pytest.raises(RankError, match=message):
        run_ranks(broken, 1, kind, imported, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
