"""Parsing layouts, and applying them to a config."""

import pytest

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.layout import Layout, config_in_layout, parse_layout
from bigtrain.parity.layouts import STANDARD, layouts_to_compare, parse_layouts

VALUES = {
    "name": "parity",
    "model": {
        "num_layers": 4,
        "hidden_size": 32,
        "num_heads": 4,
        "vocab_size": 500,
        "max_sequence_length": 32,
    },
    "data": {"train": "somewhere", "sequence_length": 32},
    "optim": {"learning_rate": 1e-3},
    "train": {"steps": 30, "global_batch_size": 8, "micro_batch_size": 2},
}


def _config(**parallel: int | bool | str) -> RunConfig:
    return RunConfig.model_validate({**VALUES, "parallel": parallel})


@pytest.mark.parametrize("text", STANDARD)
def test_the_name_of_a_standard_layout_is_its_text(text: str) -> None:
    assert parse_layout(text).name == text
    config_in_layout(_config(), parse_layout(text))


def test_a_layout_may_be_given_in_any_order_but_has_one_name() -> None:
    layout = parse_layout("  zero=2 data=2  parallel.sequence=true tensor=2 pipeline=1 ")
    assert layout.name == "tensor=2 sequence=true data=2 zero=2"
    assert layout.world_size == 4
    assert layout == parse_layout(layout.name)


@pytest.mark.parametrize("text", ["", "one process", "tensor=1 data=1 zero=0"])
def test_one_process_is_a_layout(text: str) -> None:
    assert parse_layout(text) == Layout()
    assert Layout().name == "one process" and Layout().world_size == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tensor", "tensor is not one of tensor, sequence, pipeline"),
        ("tensors=2", "tensors=2 is not one of"),
        ("device=cpu", "device=cpu is not one of"),
        ("tensor=0", "tensor=0"),
        ("tensor=two", "tensor='two': give a whole number"),
        ("zero=4", "zero=4: give 3 or less"),
        ("tensor=2 tensor=2", "tensor is given twice"),
        ("data=0", "data=0 is not a number of data ranks; try data=2"),
        ("data=true", "is not a number of data ranks"),
    ],
)
def test_an_invalid_layout_is_refused_with_its_text(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_layout(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_layout_replaces_that_of_the_config_and_keeps_the_other_keys() -> None:
    config = _config(tensor=4, sequence=True, zero=1, device="cpu")
    changed = config_in_layout(config, parse_layout("pipeline=2"))
    assert changed.parallel.model_dump(exclude_defaults=True) == {"pipeline": 2, "device": "cpu"}
    assert changed.model_dump(exclude={"parallel"}) == config.model_dump(exclude={"parallel"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tensor=3", "parallel.tensor=3 does not divide model.num_heads=4"),
        ("sequence=true", "parallel.sequence=true splits the sequence over tensor ranks"),
        ("data=3", "train.global_batch_size=8 is not a multiple of train.micro_batch_size=2 × 3"),
        ("pipeline=2 virtual_pipeline=2 data=4", "train.global_batch_size=8 is not a multiple"),
    ],
)
def test_a_layout_that_the_config_refuses_gives_the_configs_message(
    text: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config_in_layout(_config(), parse_layout(text))
    assert str(caught.value).startswith(message)


def test_the_default_layouts_fit_the_ranks_and_start_with_that_of_the_config() -> None:
    names = [layout.name for layout in layouts_to_compare(_config(), most_ranks=4)]
    assert names == list(STANDARD)
    layouts = layouts_to_compare(_config(pipeline=4, zero=0), most_ranks=4)
    assert layouts[0].name == "pipeline=4"
    assert all(layout.world_size <= 2 for layout in layouts_to_compare(_config(), most_ranks=2))
    assert [s.name for s in layouts_to_compare(_config(zero=1), most_ranks=4)] == list(STANDARD)


def test_each_requested_layout_is_run_once() -> None:
    asked = ["tensor=2", "data=2 tensor=2", "tensor=2 data=2", ""]
    assert [layout.name for layout in parse_layouts(asked)] == ["tensor=2", "tensor=2 data=2"]


def test_one_process_as_the_only_layout_is_refused() -> None:
    assert parse_layouts([]) == []
    with pytest.raises(ConfigError, match="every layout is compared with"):
        parse_layouts(["one process"])
