"""A Hugging Face folder that bigtrain cannot use is refused in one line, and nothing is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.hugging_face_folders import change_config, change_tensors, save_random
from tests.distributed.test_import import import_folder
from tests.ranks import RankError, run_ranks


@pytest.fixture
def tokenizer(corpus: Path) -> Path:
    return corpus.parent / "tokenizer.model"


@pytest.fixture
def folder(tokenizer: Path, tmp_path: Path) -> Path:
    """A random Llama as a Hugging Face folder."""
    place = tmp_path / "llama"
    run_ranks(save_random, 1, "llama tied", place, tokenizer=tokenizer)
    return place


def _without(*names: str) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        for name in names:
            del tensors[name]

    return change


def _with_nan(tensors: dict[str, Any]) -> None:
    tensors["model.layers.1.self_attn.k_proj.weight"][0, 0] = float("nan")


def _with_extra(tensors: dict[str, Any]) -> None:
    tensors["score.weight"] = tensors["model.norm.weight"].clone()


def _with_other_shape(tensors: dict[str, Any]) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()


def _with_other_head(tensors: dict[str, Any]) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1


def _with_integers(tensors: dict[str, Any]) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"].int()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _without("model.norm.weight", "model.layers.0.mlp.up_proj.weight"),
            r"lacks 2 tensors \(model.layers.0.mlp.up_proj.weight \[48, 32\], "
            r"model.norm.weight \[32\]\) of the model in config.json; download it again",
        ),
        (
            _with_extra,
            r"has 1 tensor \(score.weight \[32\]\), which LlamaForCausalLM does not have",
        ),
        (
            _with_other_shape,
            r"model.norm.weight has shape \[31\], and config.json makes it \[32\]",
        ),
        (_with_nan, r"model.layers.1.self_attn.k_proj.weight has 1 values that are NaN"),
        (_with_other_head, r"lm_head.weight is not model.embed_tokens.weight, and config.json"),
        (_with_integers, r"model.norm.weight is of type I32; weights are F32, BF16, F16"),
    ],
    ids=["missing", "extra", "shape", "nan", "tied", "type"],
)
def test_tensors_that_do_not_fit_are_named(
    change: Callable[[dict[str, Any]], None], message: str, folder: Path, tmp_path: Path
) -> None:
    change_tensors(folder, change)
    _check_refused(folder, tmp_path, message)


def _check_refused(folder: Path, tmp_path: Path, message: str) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RankError, match=message) as refusal:
        run_ranks(import_folder, 1, folder, tmp_path / "out")
    last = str(refusal.value).strip().splitlines()[-1]
    assert "Refusal: " in last or "InputError: " in last, last
    assert sorted(tmp_path.iterdir()) == before


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _other_architecture(folder: Path) -> None:
    change_config(folder, model_type="mamba", architectures=["MambaForCausalLM"])


def _code(folder: Path) -> None:
    change_config(folder, model_type="mine", auto_map={"AutoConfig": "mine.MyConfig"})
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")


def _window(folder: Path) -> None:
    change_config(folder, model_type="mistral", sliding_window=16)


def _quantized(folder: Path) -> None:
    change_config(folder, quantization_config={"quant_method": "gptq"})


def _yarn(folder: Path) -> None:
    change_config(folder, rope_parameters={"rope_type": "yarn", "rope_theta": 1.0, "factor": 2.0})


def _other_biases(folder: Path) -> None:
    change_config(folder, attention_bias=True)


def _wide_heads(folder: Path) -> None:
    change_config(folder, head_dim=16)


def _other_activation(folder: Path) -> None:
    change_config(folder, hidden_act="relu")


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _indexed(file: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        weight_map = {"model.norm.weight": file}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return change


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.model").unlink()


def _larger_vocabulary(folder: Path) -> None:
    change_config(folder, vocab_size=512)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_no_config, "no config.json; give a folder with config.json, safetensors and a tokenizer"),
        (_broken_config, "config.json is not JSON"),
        (_other_architecture, "unknown architecture: model_type=mamba, .* bigtrain imports gpt2, "),
        (_code, "unknown architecture: model_type=mine, .* never runs code from a folder"),
        (_window, "sliding_window=16 is shorter than max_position_embeddings=32, and bigtrain's"),
        (_quantized, "the weights are quantized; give the folder that they were quantized from"),
        (_yarn, "rope_type=yarn; bigtrain's model has default and llama3"),
        (_other_biases, "attention_bias=True and mlp_bias=False differ"),
        (_wide_heads, "head_dim=16 × num_attention_heads=4 is not hidden_size=32"),
        (_other_activation, "hidden_act=relu; bigtrain's model has silu"),
        (
            _pickled,
            r"pytorch_model.bin: pickled weights can run code, .*LlamaForCausalLM.from_pretrained",
        ),
        (_no_weights, "no model.safetensors and no model.safetensors.index.json"),
        (_cut_weights, "model.safetensors cannot be read"),
        (_indexed("../other.safetensors"), r"is '../other.safetensors', which is not a file of"),
        (_indexed("/etc/passwd"), r"is '/etc/passwd', which is not a file of this folder"),
        (_indexed("pytorch_model.bin"), r"is 'pytorch_model.bin', which is not safetensors"),
        (_indexed("absent.safetensors"), r"absent.safetensors is missing"),
        (_no_tokenizer, "neither tokenizer.json nor tokenizer.model"),
        (_larger_vocabulary, "has 500 tokens, and vocab_size in config.json is 512"),
    ],
)
def test_a_folder_that_is_no_model_of_ours_is_refused(
    change: Callable[[Path], None], message: str, folder: Path, tmp_path: Path
) -> None:
    change(folder)
    _check_refused(folder, tmp_path, message)
    assert not (folder / "ran").exists()


def _under_the_other_name(tensors: dict[str, Any]) -> None:
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")


def test_a_tied_weight_may_have_either_name(folder: Path, tmp_path: Path) -> None:
    change_tensors(folder, _under_the_other_name)
    done = run_ranks(import_folder, 1, folder, tmp_path / "out")[0]
    assert done.anew == () and done.logits.largest < 1e-5


def test_an_import_never_overwrites(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    _check_refused(folder, tmp_path, "out exists already")


def test_an_import_to_a_url_is_refused(folder: Path) -> None:
    with pytest.raises(RankError, match="s3://bucket/x: an import is verified on a disk"):
        run_ranks(import_folder, 1, folder, "s3://bucket/x")


def test_a_folder_without_a_tokenizer_takes_another(
    folder: Path, tokenizer: Path, tmp_path: Path
) -> None:
    _no_tokenizer(folder)
    other = shutil.copy(tokenizer, tmp_path / "other.model")
    done = run_ranks(import_folder, 1, folder, tmp_path / "out", tokenizer_file=other)[0]
    assert done.tokenizer == other
