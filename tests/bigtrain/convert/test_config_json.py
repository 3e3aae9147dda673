"""An exported config.json has the keys of transformers 4 and 5, and the start token of training."""

import json
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config.model import ModelConfig
from bigtrain.convert.config_json import write_config
from bigtrain.convert.families import family_of
from bigtrain.convert.special_ids import ids_of_model
from data_tools.tokenizer import SpecialIds
from tests.runs import LLAMA

SPECIAL = SpecialIds(pad=0, bos=1, eos=2, unk=3, cls=4, sep=5, mask=6)
SCALING = {"factor": 4.0, "original_max_sequence_length": 16}


def written(folder: Path, **model: Any) -> dict[str, Any]:
    sizes = {"num_layers": 1, "hidden_size": 32, "num_heads": 4, "vocab_size": 99}
    config = ModelConfig.model_validate({**sizes, "max_sequence_length": 64, **model})
    write_config(family_of(config).config(config, SPECIAL), folder)
    values: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return values


@pytest.mark.parametrize("qk_norm", [False, True])
def test_rotary_embeddings_have_the_keys_of_both_versions(tmp_path: Path, qk_norm: bool) -> None:
    family = {**LLAMA, "biases": False, "qk_norm": qk_norm, "rope_theta": 500000.0}
    plain = written(tmp_path, **family)
    assert (plain["rope_theta"], plain["rope_scaling"]) == (500000.0, None)
    assert plain["rope_parameters"] == {"rope_type": "default", "rope_theta": 500000.0}
    scaled = written(tmp_path, **family, rope_scaling=SCALING)
    assert scaled["rope_parameters"] == {**scaled["rope_scaling"], "rope_theta": 500000.0}
    assert scaled["rope_scaling"]["rope_type"] == "llama3"
    assert scaled["rope_scaling"]["original_max_position_embeddings"] == 16


def test_the_dtype_of_the_weights_has_the_keys_of_both_versions(tmp_path: Path) -> None:
    values = written(tmp_path)
    assert values["dtype"] == values["torch_dtype"] == "float32"


@pytest.mark.parametrize("family", [{}, {**LLAMA}])
def test_a_gpt_starts_with_the_token_before_every_training_document(
    tmp_path: Path, family: dict[str, Any]
) -> None:
    values = written(tmp_path, **family)
    assert (values["bos_token_id"], values["eos_token_id"], values["pad_token_id"]) == (2, 2, 0)


def test_a_gpt_without_pad_token_pads_with_eos_as_in_training() -> None:
    special = SpecialIds(pad=-1, bos=-1, eos=2, unk=-1, cls=-1, sep=-1, mask=-1)
    assert set(ids_of_model("gpt", special).values()) == {2}
    assert ids_of_model("bert", SPECIAL)["bos_token_id"] == 1
