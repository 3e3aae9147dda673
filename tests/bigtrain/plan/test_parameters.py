"""Parameter counts equal the published ones."""

from typing import Any

import pytest

from bigtrain.config.model import ModelConfig
from bigtrain.plan.parameters import count_parameters

GPT2 = {"vocab_size": 50257, "max_sequence_length": 1024}
LLAMA = {
    "vocab_size": 128256,
    "max_sequence_length": 8192,
    "positions": "rope",
    "norm": "rmsnorm",
    "activation": "swiglu",
    "biases": False,
    "num_kv_heads": 8,
    "tie_embeddings": False,
}
BERT = {"kind": "bert", "vocab_size": 30522, "max_sequence_length": 512}


def _shape(layers: int, hidden: int, heads: int, **rest: Any) -> dict[str, Any]:
    return {"num_layers": layers, "hidden_size": hidden, "num_heads": heads, **rest}


@pytest.mark.parametrize(
    ("shape", "published"),
    [
        # Hugging Face: openai-community/gpt2, gpt2-medium, gpt2-xl.
        ({**GPT2, **_shape(12, 768, 12)}, 124_439_808),
        ({**GPT2, **_shape(24, 1024, 16)}, 354_823_168),
        ({**GPT2, **_shape(48, 1600, 25)}, 1_557_611_200),
        # Hugging Face: meta-llama/Llama-3.2-1B, Meta-Llama-3-8B, -70B, Llama-3.1-405B.
        (
            {**LLAMA, **_shape(16, 2048, 32, ffn_hidden_size=8192, tie_embeddings=True)},
            1_235_814_400,
        ),
        ({**LLAMA, **_shape(32, 4096, 32, ffn_hidden_size=14336)}, 8_030_261_248),
        ({**LLAMA, **_shape(80, 8192, 64, ffn_hidden_size=28672)}, 70_553_706_496),
        ({**LLAMA, **_shape(126, 16384, 128, ffn_hidden_size=53248)}, 405_853_388_800),
        # Hugging Face: BertForPreTraining of google-bert/bert-base-uncased and -large-uncased.
        # With norms before blocks the norm of the embeddings is after the last layer instead.
        ({**BERT, **_shape(12, 768, 12, norm_position="post")}, 110_106_428),
        ({**BERT, **_shape(12, 768, 12)}, 110_106_428),
        ({**BERT, **_shape(24, 1024, 16)}, 336_226_108),
    ],
)
def test_the_counts_equal_the_published_ones(shape: dict[str, Any], published: int) -> None:
    assert count_parameters(ModelConfig.model_validate(shape)).total == published


def test_the_outer_norm_is_where_the_norms_are() -> None:
    sizes = {
        position: count_parameters(
            ModelConfig.model_validate({**BERT, **_shape(2, 64, 4), "norm_position": position})
        ).modules
        for position in ("pre", "post")
    }
    assert "final_norm" in sizes["pre"] and "embedding_norm" not in sizes["pre"]
    assert "embedding_norm" in sizes["post"] and "final_norm" not in sizes["post"]
    assert sizes["post"]["embedding_norm"] == 2 * 64


def test_gpt_3_has_175_billion_parameters() -> None:
    # Brown et al., arXiv 2005.14165, table 2.1.
    shape = {**GPT2, **_shape(96, 12288, 96), "max_sequence_length": 2048}
    assert round(count_parameters(ModelConfig.model_validate(shape)).total, -9) == 175_000_000_000


def test_padding_counts_once_per_vocabulary_matrix() -> None:
    shape = {**GPT2, **_shape(2, 64, 4), "vocab_multiple": 128}
    tied = count_parameters(ModelConfig.model_validate(shape))
    untied = count_parameters(ModelConfig.model_validate({**shape, "tie_embeddings": False}))
    assert tied.padding == (50304 - 50257) * 64
    assert untied.padding == 2 * tied.padding
    assert untied.total - tied.total == 50257 * 64
