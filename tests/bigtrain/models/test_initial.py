"""Initial weights depend on seed, name and index: any box equals that part of the full tensor."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.config.model import ModelConfig
from bigtrain.models.initial import fill_initial_values

MODEL = ModelConfig(
    num_layers=8, hidden_size=64, num_heads=4, vocab_size=100, max_sequence_length=16
)


def _fill(name: str, shape: tuple[int, ...], **options: Any) -> torch.Tensor:
    view = torch.full(options.pop("size", shape), math.nan)
    defaults = {"offset": (0,) * len(shape), "seed": 1}
    fill_initial_values(view, name=name, global_shape=shape, model=MODEL, **{**defaults, **options})
    return view


@settings(deadline=None)
@given(data=st.data())
def test_a_box_equals_its_part_of_the_full_tensor(data: st.DataObject) -> None:
    shape = (11, 7)
    offset = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    size = tuple(data.draw(st.integers(1, n - o)) for n, o in zip(shape, offset, strict=True))
    full = _fill("x.weight", shape)
    box = _fill("x.weight", shape, offset=offset, size=size)
    where = tuple(slice(o, o + n) for o, n in zip(offset, size, strict=True))
    assert torch.equal(box, full[where])


def test_a_box_of_a_tensor_of_several_chunks_equals_its_part() -> None:
    shape = (3000, 500)
    full = _fill("x.weight", shape)
    tail = _fill("x.weight", shape, offset=(2500, 0), size=(500, 500))
    assert torch.equal(tail, full[2500:])


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("decoder.layers.0.mlp.linear_fc1.weight", 0.02),
        ("decoder.layers.0.mlp.linear_fc2.weight", 0.02 / 4),
        ("decoder.layers.3.self_attention.linear_proj.weight", 0.02 / 4),
        ("embedding.word_embeddings.weight", 0.02),
        ("embedding.tokentype_embeddings.weight", 0.02),
        ("lm_head.dense.weight", 0.02),
        ("pooler.dense.weight", 0.02),
        ("binary_head.weight", 0.02),
    ],
)
def test_weights_are_normal_with_the_standard_deviation_of_their_module(
    name: str, std: float
) -> None:
    values = _fill(name, (1000, 1000))
    assert values.mean().item() == pytest.approx(0, abs=5 * std / 1000)
    assert values.std().item() == pytest.approx(std, rel=0.005)
    kurtosis = ((values / std) ** 4).mean().item()
    assert kurtosis == pytest.approx(3, abs=0.05)
    assert values.unique().numel() > 900_000


@pytest.mark.parametrize(
    "name",
    [
        "decoder.final_layernorm.weight",
        "decoder.layers.0.mlp.linear_fc1.layer_norm_weight",
        "decoder.layers.0.self_attention.linear_qkv.layer_norm_weight",
        "decoder.layers.0.self_attention.q_layernorm.weight",
        "decoder.layers.0.self_attention.k_layernorm.weight",
        "encoder.final_layernorm.weight",
        "lm_head.layer_norm.weight",
    ],
)
def test_norms_start_as_the_identity(name: str) -> None:
    assert _fill(name, (64,)).eq(1).all()
    assert _fill(name.replace("weight", "bias"), (64,)).eq(0).all()


def test_name_and_seed_both_change_the_values() -> None:
    first = _fill("a.weight", (50, 50))
    assert not torch.equal(first, _fill("b.weight", (50, 50)))
    assert not torch.equal(first, _fill("a.weight", (50, 50), seed=2))
    assert torch.equal(first, _fill("a.weight", (50, 50)))
