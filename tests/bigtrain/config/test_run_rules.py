"""Rules across the sections of a run, each with its remedy, and values derived from a layout."""

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bigtrain.config import ConfigError, RunConfig, render_config
from bigtrain.config.config_files import load_resolved_config
from bigtrain.config.model import ModelConfig
from bigtrain.config.sections import divisors
from tests.bigtrain.config.small_run import ConfigFolder


def test_heads_must_divide_the_hidden_size(folder: ConfigFolder) -> None:
    message = folder.refuse("model.num_heads=5")
    assert "model.num_heads=5 does not divide model.hidden_size=48; try 3, 4 or 6" in message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["parallel.tensor=3"], "parallel.tensor=3 does not divide model.num_heads=4; try 1, 2, 4"),
        (
            ["parallel.tensor=4", "model.ffn_hidden_size=6"],
            "parallel.tensor=4 does not divide model.ffn_hidden_size=6; "
            "try 1, 2 or change model.ffn_hidden_size",
        ),
        (
            ["parallel.tensor=4", "model.vocab_multiple=1", "model.vocab_size=301"],
            "parallel.tensor=4 does not divide the padded vocabulary of 301; "
            "set model.vocab_multiple to a multiple of 4",
        ),
        (
            ["parallel.pipeline=3"],
            "parallel.pipeline=3 does not divide model.num_layers=4; try 1, 2, 4",
        ),
        (
            ["data.sequence_length=33"],
            "data.sequence_length=33 is more than model.max_sequence_length=32; lower "
            "data.sequence_length or raise model.max_sequence_length",
        ),
        (
            ["optim.warmup_steps=20"],
            "optim.warmup_steps=20 leaves no step for the decay, which ends at step 20; "
            "lower it or raise train.steps",
        ),
        (
            ["optim.warmup_steps=12", "optim.decay_steps=10"],
            "which ends at step 10; lower it or raise optim.decay_steps",
        ),
        (
            ["optim.min_learning_rate=0.1"],
            "optim.min_learning_rate=0.1 is above optim.learning_rate=0.001; lower it",
        ),
        (
            ["train.micro_batch_size=3"],
            "train.micro_batch_size=3 does not divide train.global_batch_size=8; "
            "try train.global_batch_size=9",
        ),
    ],
)
def test_sections_that_disagree_are_refused_with_the_remedy(
    folder: ConfigFolder, overrides: list[str], message: str
) -> None:
    assert message in folder.refuse(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["parallel.tensor=4"],
        ["parallel.pipeline=4"],
        ["data.sequence_length=16"],
        ["optim.warmup_steps=19"],
        ["optim.warmup_steps=20", "optim.schedule=constant"],
        ["optim.warmup_steps=20", "optim.decay_steps=21"],
        ["optim.min_learning_rate=1e-3"],
        ["train.micro_batch_size=8"],
        ["parallel.tensor=4", "model.vocab_multiple=4", "model.vocab_size=301"],
    ],
)
def test_sections_that_barely_fit_are_accepted(folder: ConfigFolder, overrides: list[str]) -> None:
    folder.load(*overrides)


def test_every_broken_rule_is_named_at_once(folder: ConfigFolder) -> None:
    message = folder.refuse("parallel.pipeline=3", "train.micro_batch_size=3")
    assert "parallel.pipeline=3" in message
    assert "train.micro_batch_size=3" in message


@settings(max_examples=60, deadline=None)
@given(heads=st.integers(1, 12), ffn=st.integers(1, 60), tensor=st.integers(2, 12))
def test_the_first_suggested_tensor_degree_is_valid(heads: int, ffn: int, tensor: int) -> None:
    values = _values(num_heads=heads, hidden_size=heads * 4, ffn_hidden_size=ffn)
    assume(heads % tensor or ffn % tensor)
    with pytest.raises(ValidationError) as caught:
        RunConfig.model_validate({**values, "parallel": {"tensor": tensor}})
    offered = re.search(r"try ([0-9, ]+) or", str(caught.value))
    assert offered
    for degree in map(int, offered.group(1).split(", ")):
        RunConfig.model_validate({**values, "parallel": {"tensor": degree}})


@given(st.integers(1, 5000))
def test_divisors_leave_no_remainder(number: int) -> None:
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]


def test_a_remedy_for_a_prime_of_nine_digits_is_found_quickly(folder: ConfigFolder) -> None:
    message = folder.refuse("model.num_layers=1000000007", "parallel.pipeline=3")
    assert "try 1, 1000000007" in message


def test_data_ranks_are_the_world_size_divided_by_the_other_degrees(folder: ConfigFolder) -> None:
    config = folder.load("parallel.tensor=2", "parallel.pipeline=2")
    assert config.data_parallel_size(4) == 1
    assert config.data_parallel_size(8) == 2


@pytest.mark.parametrize(("world", "remedy"), [(0, 4), (1, 4), (3, 4), (6, 8)])
def test_a_world_size_that_the_layout_does_not_divide_is_refused(
    folder: ConfigFolder, world: int, remedy: int
) -> None:
    config = folder.load("parallel.tensor=2", "parallel.pipeline=2")
    expected = f"needs a multiple of 4 processes, not {world}; start {remedy} or change the layout"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        config.data_parallel_size(world)


def test_a_batch_that_the_ranks_do_not_divide_is_refused(folder: ConfigFolder) -> None:
    expected = "train.global_batch_size=8 is not a multiple of "
    expected += "train.micro_batch_size=2 × 3 data ranks"
    with pytest.raises(ConfigError, match=f"{expected}; try 12"):
        folder.load().data_parallel_size(3)


def test_missing_values_are_derived(folder: ConfigFolder) -> None:
    config = folder.load()
    assert config.model.head_dim == 12
    assert config.model.feed_forward_size == 192
    assert config.model.padded_vocab_size == 384
    assert config.decay_steps == 20
    assert folder.load("optim.decay_steps=7").decay_steps == 7


def test_the_vocabulary_is_padded_only_if_necessary(folder: ConfigFolder) -> None:
    assert folder.load("model.vocab_size=384").model.padded_vocab_size == 384
    assert folder.load("model.vocab_size=385").model.padded_vocab_size == 512


def _values(**model: int) -> dict[str, object]:
    return {
        "name": "x",
        "model": {"num_layers": 4, "vocab_size": 55440, "max_sequence_length": 8}
        | {"vocab_multiple": 55440}
        | model,
        "data": {"train": "c", "sequence_length": 8},
        "optim": {"learning_rate": 1e-3},
        "train": {"steps": 5, "global_batch_size": 4, "micro_batch_size": 1},
    }


_PATHS = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), include_characters=" "), min_size=1
).filter(lambda text: text.strip() != "" and text.isprintable())
_NAMES = st.one_of(_PATHS, st.sampled_from(["1e-4", "0o17", "no", "012", "2024-01-01", "~", "=1"]))


@settings(max_examples=100, deadline=None)
@given(
    name=_NAMES.filter(
        lambda name: (
            name == name.strip()
            and name[0] != "."
            and len(name.encode()) <= 200
            and not set(name) & set("/\\")
        )
    ),
    corpus=_PATHS,
    seed=st.integers(0, 2**63 - 1),
    rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    samples=st.none() | st.integers(1, 2**31 - 1),
    ties=st.booleans(),
)
def test_a_rendered_config_loads_as_an_equal_one(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    corpus: str,
    seed: int,
    rate: float,
    samples: int | None,
    ties: bool,
) -> None:
    values = _values(num_heads=4, hidden_size=48)
    model = ModelConfig.model_validate({**values["model"], "tie_embeddings": ties})  # type: ignore[dict-item]
    config = RunConfig.model_validate(
        values
        | {"name": name, "seed": seed, "model": model, "runs_dir": corpus}
        | {"data": {"train": corpus, "validation": name, "sequence_length": 8}}
        | {"optim": {"learning_rate": rate}, "validation": {"samples": samples}}
    )
    file = tmp_path_factory.getbasetemp() / "rendered.yaml"
    file.write_text(render_config(config), encoding="utf-8")
    assert load_resolved_config(file) == config
