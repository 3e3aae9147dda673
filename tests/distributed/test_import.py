"""Hugging Face folders become checkpoints and come back with every bit equal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bigtrain.checkpoint.schema import read_state
from bigtrain.checkpoint.storage_folder import open_folder
from bigtrain.commands.checkpoint.info import (
    describe_checkpoint,
    render_description,
    render_saved_config,
)
from bigtrain.commands.checkpoint.verify import verify_checkpoint
from bigtrain.config import RunConfig, load_run_config
from tests.distributed.hugging_face_folders import (
    MODELS,
    save_random,
    tensors_of,
)
from tests.distributed.steps import engine_of, forward_step_of, microbatches_of
from tests.ranks import RankError, run_ranks
from tests.runs import bert_config, hash_tensors, tiny_config, train_rank


def import_folder(folder: Path, out: Path, **options: Any) -> Any:
    """Imports a folder; for ``run_ranks``."""
    from bigtrain.convert.import_hf import import_hugging_face

    return import_hugging_face(folder, out, **options)


def export(checkpoint: Path, out: Path, **options: Any) -> Any:
    """Exports a checkpoint; for ``run_ranks``."""
    from bigtrain.convert.export import export_hugging_face

    return export_hugging_face(checkpoint, out, **options)


def step_with_learning_rate_0(config: RunConfig, imported: Path, out: Path) -> list[float]:
    """Loads the weights of an import, takes one step that changes nothing, and saves."""
    from dataclasses import replace

    from bigtrain.checkpoint.loading import load_checkpoint
    from tests.runs import save_engine

    with engine_of(config) as (engine, layout, coordinates):
        state = load_checkpoint(open_folder(imported), engine, weights_only=True)
        batches = microbatches_of(config, 0, layout, coordinates)
        engine.backward(forward_step_of(config), batches)
        norm = engine.reduce()
        assert engine.update(0.0)
        assert engine.optimizer_steps == 1
        now = replace(
            state, step=1, optimizer_steps=1, config=config.model_dump(mode="json"), origin=None
        )
        tokenizer = (imported / "tokenizer.model").read_bytes()
        save_engine(engine, now, out, tokenizer=tokenizer)
        return [norm]


def logits_of(folders: list[Path]) -> list[Any]:
    """The logits of transformers' models on the same tokens, in fp32; for ``run_ranks``."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForPreTraining

    tokens = torch.randint(0, 500, (2, 32), generator=torch.Generator().manual_seed(5))
    found = []
    for folder in folders:
        kind = (AutoConfig.from_pretrained(folder).architectures or [""])[0]
        auto = AutoModelForPreTraining if "PreTraining" in kind else AutoModelForCausalLM
        model = auto.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            found.append(model(tokens)[0].numpy())
    return found


@pytest.fixture
def tokenizer(corpus: Path) -> Path:
    return corpus.parent / "tokenizer.model"


@pytest.fixture
def folder(tokenizer: Path, tmp_path: Path) -> Path:
    """A random Llama as a Hugging Face folder."""
    place = tmp_path / "llama"
    run_ranks(save_random, 1, "llama tied", place, tokenizer=tokenizer)
    return place


def _config_of(imported: Path, corpus: Path, runs: Path, **sections: Any) -> RunConfig:
    model = read_state(open_folder(imported)).config["model"]
    make = bert_config if model["kind"] == "bert" else tiny_config
    return make(corpus, runs, **{"model": model, **sections})


QUICK = ("llama tied",)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MODELS],
)
def test_import_four_ranks_and_export_give_back_every_bit(
    name: str, tokenizer: Path, corpus: Path, tmp_path: Path
) -> None:
    theirs, imported = tmp_path / "theirs", tmp_path / "imported"
    run_ranks(save_random, 1, name, theirs, tokenizer=tokenizer)
    done = run_ranks(import_folder, 1, theirs, imported)[0]
    assert done.logits.largest < 1e-5
    assert not done.anew
    layout = {"tensor": 2, "pipeline": 2, "zero": 1, "device": "cpu"}
    config = _config_of(imported, corpus, tmp_path, parallel=layout)
    norms = run_ranks(step_with_learning_rate_0, 4, config, imported, tmp_path / "saved")
    assert norms[0] == norms[3] and norms[0][0] > 0
    run_ranks(export, 1, tmp_path / "saved/step-00000001", tmp_path / "exported")
    _check_equal(theirs, tmp_path / "exported", left_out=set(done.unused))


def _check_equal(theirs: Path, exported: Path, *, left_out: set[str]) -> None:
    before, after = tensors_of(theirs), tensors_of(exported)
    # A tensor that no output depends on comes back as the one that is used.
    assert set(before) == set(after)
    for name in set(before) - left_out:
        assert before[name].tobytes() == after[name].tobytes(), name
    one, other = run_ranks(logits_of, 1, [theirs, exported])[0]
    assert np.abs(one).max() > 0.1
    assert np.abs(one - other).max() < 1e-5


@pytest.mark.slow
def test_eight_ranks_with_zero_1_over_two_copies_give_back_every_bit(
    folder: Path, corpus: Path, tmp_path: Path
) -> None:
    run_ranks(import_folder, 1, folder, tmp_path / "imported")
    layout = {"tensor": 2, "pipeline": 2, "zero": 1, "device": "cpu"}
    config = _config_of(tmp_path / "imported", corpus, tmp_path, parallel=layout)
    run_ranks(step_with_learning_rate_0, 8, config, tmp_path / "imported", tmp_path / "saved")
    run_ranks(export, 1, tmp_path / "saved/step-00000001", tmp_path / "exported")
    _check_equal(folder, tmp_path / "exported", left_out=set())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_small_types_become_fp32_exactly(dtype: str, tokenizer: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    options = {"tokenizer": tokenizer, "dtype": dtype, "max_shard_size": "40KB"}
    run_ranks(save_random, 1, "llama tied", theirs, **options)
    assert len(list(theirs.glob("*.safetensors"))) > 2
    run_ranks(import_folder, 1, theirs, tmp_path / "imported")
    run_ranks(export, 1, tmp_path / "imported", tmp_path / "exported")
    before, after = tensors_of(theirs), tensors_of(tmp_path / "exported")
    assert set(before) == set(after)
    for name, values in before.items():
        bits = values.view(np.uint16).astype(np.uint32) << 16
        wide = bits.view(np.float32) if dtype == "bfloat16" else values.astype(np.float32)
        assert wide.tobytes() == after[name].tobytes(), name


def test_a_run_starts_from_an_import_and_another_resumes_from_neither_moments_nor_step(
    folder: Path, corpus: Path, tmp_path: Path
) -> None:
    imported = tmp_path / "imported"
    run_ranks(import_folder, 1, folder, imported)
    state = read_state(open_folder(imported))
    assert not state.has_moments and state.step == 0
    assert state.origin is not None and state.origin["architecture"] == "LlamaForCausalLM"
    assert not verify_checkpoint(open_folder(imported)).faults
    shown = dict(render_description(describe_checkpoint(open_folder(imported))))
    assert shown["imported from"] == f"{folder}; weights only, no moments"
    assert shown["model"].startswith("gpt, 47,008 parameters: 4 layers × 32")
    assert render_saved_config(open_folder(imported)) == (imported / "model.yaml").read_text()
    yaml = tmp_path / "run.yaml"
    config = tiny_config(corpus, tmp_path)
    values = config.model_dump(mode="json", exclude={"model"})
    values["checkpoint"]["load"] = str(imported)
    values["train"]["steps"] = 3
    yaml.write_text(json.dumps(values))
    run = load_run_config([str(yaml), str(imported / "model.yaml")])
    run_ranks(train_rank, 1, run)
    saved = read_state(open_folder(run.run_dir / "checkpoints/step-00000003"))
    assert saved.has_moments and saved.optimizer_steps == 3
    assert "origin" not in json.loads(
        (run.run_dir / "checkpoints/step-00000003/state.json").read_text()
    )


def _head(transform: bool, sentence: bool, pooler: bool) -> set[str]:
    """Names of the tensors of BERT's heads."""
    names = {"cls.predictions.bias"} if transform else set()
    modules = ["cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"]
    for module in [
        *(modules if transform else []),
        *(["cls.seq_relationship"] if sentence else []),
        *(["bert.pooler.dense"] if pooler else []),
    ]:
        names |= {f"{module}.weight", f"{module}.bias"}
    return names


@pytest.mark.parametrize(
    ("architecture", "anew"),
    [
        ("BertModel", _head(transform=True, sentence=True, pooler=False)),
        pytest.param(
            "BertForMaskedLM",
            _head(transform=False, sentence=True, pooler=True),
            marks=pytest.mark.slow,
        ),
        pytest.param("BertForPreTraining", set(), marks=pytest.mark.slow),
    ],
)
def test_heads_that_a_bert_lacks_begin_anew_from_the_seed(
    architecture: str, anew: set[str], tokenizer: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    options = {"tokenizer": tokenizer, "architecture": architecture}
    run_ranks(save_random, 1, "bert", theirs, **options)
    found = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"imported-{number}"
        done = run_ranks(import_folder, 1, theirs, out, seed=seed)[0]
        assert set(done.anew) == anew
        found.append(hash_tensors(out, ["weight"]))
    assert found[0] == found[1]
    differing = {name for name, value in found[0].items() if found[2][name] != value}
    # Biases and norms begin with 0 and 1, whatever the seed.
    assert len(differing) == sum(n.endswith("weight") and "LayerNorm" not in n for n in anew)


def test_an_export_comes_back_with_the_tokenizer_of_its_corpus(
    corpus: Path, tmp_path: Path
) -> None:
    config = tiny_config(corpus, tmp_path, train={"steps": 3}, checkpoint={"every": 3})
    run_ranks(train_rank, 1, config)
    run_ranks(export, 1, config.run_dir, tmp_path / "exported")
    assert (tmp_path / "exported/tokenizer.json").is_file()
    run_ranks(import_folder, 1, tmp_path / "exported", tmp_path / "imported")
    trained = config.run_dir / "checkpoints/step-00000003"
    one, other = (read_state(open_folder(f)) for f in (trained, tmp_path / "imported"))
    assert one.tokenizer_sha256 == other.tokenizer_sha256
    assert (
        hash_tensors(trained, ["weight"]).keys()
        == hash_tensors(tmp_path / "imported", ["weight"]).keys()
    )
    saved = {**one.config["model"], "ffn_hidden_size": 128}
    assert other.config["model"] == saved, "the model section comes back, too"


def test_imports_are_compared_layer_by_layer_if_they_are_large(
    folder: Path, tmp_path: Path
) -> None:
    whole = run_ranks(import_folder, 1, folder, tmp_path / "whole")[0]
    slow = run_ranks(import_layer_by_layer, 1, folder, tmp_path / "slow")[0]
    assert slow.logits.layer_by_layer and not whole.logits.layer_by_layer
    assert slow.logits.largest < 1e-5
    assert 0 < slow.logits.compared < whole.logits.compared
    assert slow.logits.scale == pytest.approx(whole.logits.scale, rel=0.5)


def import_layer_by_layer(folder: Path, out: Path) -> Any:
    """Imports a folder as if it were large; for ``run_ranks``."""
    from bigtrain.convert import logit_check

    logit_check.WHOLE_MODEL_BYTES = 0
    return import_folder(folder, out)


def import_with_swapped_layers(folder: Path, out: Path) -> Any:
    """Imports with the first two layers swapped, compared layer by layer; for ``run_ranks``."""
    from bigtrain.convert import checkpoint_model

    load = checkpoint_model.CheckpointModel._load
    swapped = {0: 1, 1: 0}

    def load_another(self: Any, names: Any, *, layer: int = 0) -> None:
        load(self, names, layer=swapped.get(layer, layer))

    checkpoint_model.CheckpointModel._load = load_another  # type: ignore[method-assign]
    return import_layer_by_layer(folder, out)


def test_a_layer_that_differs_is_found_layer_by_layer(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RankError, match="logits of the imported model differ"):
        run_ranks(import_with_swapped_layers, 1, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


RULES = {
    "Identity": "llama tied",
    "Transposed": "gpt2",
    "FusedQkv": "gpt2",
    "GroupedQkv": "llama tied",
    "PaddedRows": "gpt2",
}
"""Each kind of mapping, and a model that needs it."""


def import_with_broken_rule(kind: str, folder: Path, out: Path) -> Any:
    """Imports with a mapping that gives other values; for ``run_ranks``."""
    from bigtrain.convert import import_source, mapping

    rule = getattr(mapping, kind)
    right = rule.from_hugging_face
    rule.from_hugging_face = lambda self, tensor: right(self, tensor).flip(0)
    # Otherwise the rows of Identity and PaddedRows are read one by one.
    import_source.ImportSource.has_their_rows = lambda *_: False  # type: ignore[method-assign]
    return import_folder(folder, out)


def import_with_both_directions_broken(kind: str, folder: Path, out: Path) -> Any:
    """As above, but what comes back is equal, so that only the logits differ."""
    from bigtrain.convert import mapping

    rule = getattr(mapping, kind)
    back = rule.to_hugging_face
    rule.to_hugging_face = lambda self, tensor: back(self, tensor.flip(0))
    return import_with_broken_rule(kind, folder, out)


@pytest.mark.parametrize(("kind", "name"), RULES.items())
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (import_with_broken_rule, "does not come back equal from the checkpoint; nothing was kept"),
        (import_with_both_directions_broken, "logits of the imported model differ"),
    ],
)
def test_a_broken_rule_is_refused_and_leaves_no_files(
    kind: str,
    name: str,
    broken: Callable[..., Any],
    message: str,
    tokenizer: Path,
    tmp_path: Path,
) -> None:
    theirs, out = tmp_path / "theirs", tmp_path / "out"
    run_ranks(save_random, 1, name, theirs, tokenizer=tokenizer)
    with pytest.raises(RankError, match=message):
        run_ranks(broken, 1, kind, theirs, out / "imported")
    assert list(out.iterdir()) == []
