"""Valid and invalid values of the data section."""

from typing import Any

import pytest
from pydantic import ValidationError

from bigtrain.config.data import DataConfig

LENGTH = {"sequence_length": 8}


def test_one_corpus_is_a_mixture_of_one() -> None:
    data = DataConfig.model_validate({"train": "a", **LENGTH})
    assert data.training_corpora == ("a",)
    assert data.phases[0].start_sample == 0


def test_corpora_are_listed_once_in_order_of_appearance() -> None:
    stages = [
        {"sources": [{"corpus": "b"}, {"corpus": "a"}]},
        {"start_sample": 8, "sources": [{"corpus": "c"}, {"corpus": "b"}]},
    ]
    data = DataConfig.model_validate({"stages": stages, **LENGTH})
    assert data.training_corpora == ("b", "a", "c")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give either data.train"),
        ({"train": "a", "stages": [{"sources": [{"corpus": "a"}]}]}, "give either data.train"),
        ({"stages": [{"sources": []}]}, "at least 1 item"),
        (
            {"stages": [{"start_sample": 5, "sources": [{"corpus": "a"}]}]},
            "the first must start at 0",
        ),
        (
            {"stages": [{"start_sample": n, "sources": [{"corpus": "a"}]} for n in (0, 8, 8)]},
            "start at samples 0, 8, 8: .* each other one later than the one before",
        ),
        ({"stages": [{"sources": [{"corpus": "a"}] * 2}]}, "names the corpus a twice"),
        ({"stages": [{"sources": [{"corpus": "a", "weight": 0.0}]}]}, "greater than 0"),
        (
            {
                "train": "a",
                "skip": [{"first_sample": 5, "samples": 9}, {"first_sample": 10, "samples": 1}],
            },
            "from sample 10 begins before the one from 5 ends",
        ),
        (
            {"train": "a", "packing": "pad", "document_attention": True},
            "is for data.packing=concat, not pad",
        ),
        (
            {"train": "a", "packing": "tight"},
            "'concat', 'bestfit', 'pad', 'pairs', 'labels' or 'answers'",
        ),
    ],
)
def test_invalid_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate({**values, **LENGTH})
