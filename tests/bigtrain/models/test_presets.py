"""Every preset loads, and its model has the published number of parameters."""

from pathlib import Path

import pytest

from bigtrain.config import RunConfig, load_run_config
from bigtrain.config.model import ModelConfig
from tests.ranks import run_ranks

PUBLISHED = {
    # Brown et al., arXiv 2005.14165, table 2.1.
    "gpt/125m": 125e6,
    "gpt/350m": 350e6,
    "gpt/1.3b": 1.3e9,
    "gpt/6.7b": 6.7e9,
    "gpt/13b": 13.0e9,
    "gpt/175b": 175.0e9,
    # Meta's model cards of Llama 3.2 (1.23B, 3.21B), and the tensors of the published Llama 3.1.
    "llama/1b": 1.23e9,
    "llama/3b": 3.21e9,
    "llama/8b": 8.03e9,
    "llama/70b": 70.6e9,
    "llama/405b": 405e9,
    # Devlin et al., arXiv 1810.04805, section 3.
    "bert/base": 110e6,
    "bert/large": 340e6,
}
TINY = ("gpt/tiny", "llama/tiny", "bert/tiny")
FOLDER = Path(__file__).parents[3] / "configs"


def preset(name: str) -> RunConfig:
    """Loads a preset, with a corpus for those that have none."""
    overrides = [] if name in TINY else ["data.train=corpora/mine/train"]
    return load_run_config([str(FOLDER / f"{name}.yaml"), *overrides])


def parameters(model: ModelConfig, *, vocabulary: int) -> int:
    """The number of parameters in closed form, with ``vocabulary`` rows in the embedding."""
    hidden, inner = model.hidden_size, model.feed_forward_size
    bias = 1 if model.biases else 0
    norm = hidden * (2 if model.norm == "layernorm" else 1)
    qkv = hidden + 2 * model.kv_heads * model.head_dim
    attention = (hidden + bias) * qkv + (hidden + bias) * hidden
    widened = 2 * inner if model.activation == "swiglu" else inner
    feed_forward = (hidden + bias) * widened + (inner + bias) * hidden
    layers = model.num_layers * (2 * norm + attention + feed_forward) + norm
    positions = model.max_sequence_length * hidden if model.positions == "learned" else 0
    heads = 0 if model.tie_embeddings else vocabulary * hidden
    if model.kind == "bert":
        dense = (hidden + 1) * hidden
        heads += vocabulary + dense + norm + dense + 2 * (hidden + 1) + 2 * hidden
    return vocabulary * hidden + positions + layers + heads


def built_parameters(configs: list[RunConfig]) -> list[int]:
    """Numbers of parameters of models built on the meta device; for ``run_ranks``."""
    from bigtrain.models.build import build_chunks
    from tests.distributed.hugging_face import ONE_RANK, one_rank

    with one_rank():
        chunks = [
            build_chunks(
                config.model_copy(
                    update={"parallel": config.parallel.model_copy(update={"sequence": False})}
                ),
                ONE_RANK,
            )[0]
            for config in configs
        ]
    return [sum(parameter.numel() for parameter in chunk.parameters()) for chunk in chunks]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_number_of_parameters(name: str) -> None:
    model = preset(name).model
    assert parameters(model, vocabulary=model.vocab_size) == pytest.approx(
        PUBLISHED[name], rel=0.02
    )


def test_every_preset_is_tested() -> None:
    files = {
        f"{file.parent.name}/{file.stem}"
        for kind in ("gpt", "llama", "bert")
        for file in (FOLDER / kind).iterdir()
    }
    assert files == {*PUBLISHED, *TINY}


@pytest.mark.parametrize("name", [*PUBLISHED, *TINY])
def test_a_preset_is_valid_in_its_layout(name: str) -> None:
    config = preset(name)
    assert config.name == name.replace("/", "-")
    assert config.data_parallel_size(config.parallel.model_parallel_size) == 1


def test_a_built_model_has_as_many_parameters_as_the_closed_form() -> None:
    configs = [
        preset(name)
        for name in ("gpt/125m", "gpt/tiny", "llama/1b", "llama/tiny", "bert/base", "bert/tiny")
    ]
    expected = [
        parameters(config.model, vocabulary=config.model.padded_vocab_size) for config in configs
    ]
    assert run_ranks(built_parameters, 1, configs)[0] == expected
