"""Options of `bigtrain generate` that contradict each other are refused in one line."""

from pathlib import Path
from typing import Any

import pytest

from bigtrain.generate.errors import GenerationError
from bigtrain.generate.options import Decoding, Task, check_options


@pytest.mark.parametrize(
    ("decoding", "task", "line"),
    [
        ({"temperature": 0.7}, {}, "--temperature needs --sample: without it"),
        ({"top_k": 5}, {}, "--top-k needs --sample"),
        ({"top_p": 0.9}, {}, "--top-p needs --sample"),
        ({"seed": 0}, {}, "--seed needs --sample"),
        ({"sample": True, "temperature": 0.0}, {}, "leave out --sample"),
        ({"sample": True, "top_p": 0.0}, {}, "--top-p 0 is not a probability above 0"),
        ({"sample": True, "top_p": 1.5}, {}, "--top-p 1.5 is not a probability"),
        ({"early_stopping": True}, {}, "--early-stopping needs beams, for example --num-beams 5"),
        ({"length_penalty": 1.0}, {}, "--length-penalty needs beams"),
        ({"num_return": 3}, {}, "--num-return 3 needs --sample or --num-beams 3"),
        ({"num_return": 3, "num_beams": 2}, {}, "--num-return 3 is more than --num-beams 2"),
        ({"repetition_penalty": 0.0}, {}, "--repetition-penalty 0 is not above 0"),
        ({"stop": ("a", "")}, {}, "--stop is empty"),
        ({"num_beams": 2}, {"stream": True}, "beams choose at the end"),
        ({"sample": True, "num_return": 2}, {"stream": True}, "leave out --num-return"),
        ({}, {"stream": True, "as_json": True}, "--stream shows text and --json does not"),
        ({}, {"chat": True, "has_prompts": True}, "leave out prompts"),
        ({}, {"chat": True, "as_json": True, "out": Path("new")}, "leave out --json and --out"),
        ({}, {"chat": True, "fill_mask": 5}, "leave out --fill-mask"),
        ({"max_new_tokens": 3}, {"fill_mask": 5, "has_prompts": True}, "takes no options"),
        ({}, {"fill_mask": 5}, "--fill-mask needs a prompt with the tokenizer's mask token"),
        ({}, {"out": Path(__file__)}, "test_options.py exists already; remove it or choose"),
    ],
)
def test_contradicting_options_are_refused(
    decoding: dict[str, Any], task: dict[str, Any], line: str
) -> None:
    with pytest.raises(GenerationError) as refusal:
        check_options(Decoding(**decoding), Task(**task))
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("decoding", "task"),
    [
        ({}, {}),
        ({"sample": True, "temperature": 0.7, "top_k": 5, "top_p": 1.0, "seed": 3}, {}),
        ({"sample": True, "num_return": 3}, {"as_json": True}),
        ({"num_beams": 5, "early_stopping": True, "length_penalty": 0.0, "num_return": 5}, {}),
        ({"num_beams": 2}, {"chat": True}),
        ({"sample": True, "stop": ("x",)}, {"stream": True, "out": Path("new")}),
        ({}, {"fill_mask": 5, "has_prompts": True, "as_json": True}),
    ],
)
def test_other_options_are_accepted(decoding: dict[str, Any], task: dict[str, Any]) -> None:
    check_options(Decoding(**decoding), Task(**task))
