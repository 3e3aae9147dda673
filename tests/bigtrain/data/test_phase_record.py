"""A checkpoint's data record allows changes to future phases, but not to past ones."""

from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import ConfigError
from bigtrain.data.corpus_checks import check_data
from bigtrain.data.phase_record import PhaseRecord, check_phases
from tests.runs import tiny_config


@pytest.fixture(scope="module")
def records_of(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes the record of a run with changes to the default data section."""
    other = corpus.parent / "corpus" / "validation"  # Any second corpus will do.

    def make(**data: Any) -> list[PhaseRecord]:
        stages = data.get("stages")
        if stages is not None:
            names = {"a": str(corpus / "train"), "b": str(other)}
            stages = [
                {
                    **stage,
                    "sources": [{"corpus": names[n], "weight": w} for n, w in stage["sources"]],
                }
                for stage in stages
            ]
            data = {**data, "train": None, "stages": stages}
        config = tiny_config(corpus, Path("unused"), data={"validation": None, **data})
        return check_data(config).phase_records

    return make


ONE = [{"sources": [("a", 1.0)]}]
THEN_TWO = [*ONE, {"start_sample": 800, "sources": [("a", 1.0), ("b", 1.0)]}]


def test_the_same_data_is_accepted(records_of: Any) -> None:
    check_phases(records_of(), records_of(), consumed=500, where="here")


@pytest.mark.parametrize(
    ("before", "now", "consumed"),
    [
        ({}, {"stages": THEN_TWO}, 800),
        ({"stages": THEN_TWO}, {}, 800),
        ({}, {"skip": [{"first_sample": 500, "samples": 40}]}, 500),
        ({"skip": [{"first_sample": 500, "samples": 40}]}, {}, 500),
        ({"shuffle": "windows"}, {"shuffle": "blocks"}, 0),
    ],
)
def test_future_phases_may_change(
    records_of: Any, before: dict[str, Any], now: dict[str, Any], consumed: int
) -> None:
    check_phases(records_of(**before), records_of(**now), consumed=consumed, where="here")


@pytest.mark.parametrize(
    ("before", "now", "consumed", "message"),
    [
        ({}, {"stages": THEN_TWO}, 801, "data.stages that start at samples"),
        ({"stages": THEN_TWO}, {}, 801, "data.stages that start at samples"),
        ({}, {"skip": [{"first_sample": 499, "samples": 40}]}, 500, "data.skip"),
        ({"skip": [{"first_sample": 5, "samples": 40}]}, {}, 500, "data.skip"),
        ({"shuffle": "windows"}, {"shuffle": "blocks"}, 8, "data.shuffle windows"),
        (
            {"stages": THEN_TWO},
            {"stages": [*ONE, {"start_sample": 800, "sources": [("a", 1.0), ("b", 2.0)]}]},
            900,
            "corpora",
        ),
        ({}, {"stages": [{"sources": [("b", 1.0)]}]}, 8, "corpora"),
        (
            {"stages": [{"sources": [("a", 1.0), ("b", 1.0)]}]},
            {"stages": [{"sources": [("b", 1.0), ("a", 1.0)]}]},
            8,
            "corpora",
        ),
    ],
)
def test_past_phases_may_not_change(
    records_of: Any, before: dict[str, Any], now: dict[str, Any], consumed: int, message: str
) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"here: samples 0 to \d+ \({consumed} trained on, \d+ skipped\) had {message}",
    ):
        check_phases(records_of(**before), records_of(**now), consumed=consumed, where="here")


def test_skipped_samples_belong_to_the_past(records_of: Any) -> None:
    skipping = {"skip": [{"first_sample": 100, "samples": 1000}]}
    now = {**skipping, "stages": THEN_TWO}
    check_phases(records_of(**skipping), records_of(**now), consumed=100, where="here")
    with pytest.raises(ConfigError, match="start at samples"):
        check_phases(records_of(**skipping), records_of(**now), consumed=101, where="here")


def test_adjacent_skip_ranges_equal_one_merged_range(records_of: Any) -> None:
    parts = [{"first_sample": 10, "samples": 5}, {"first_sample": 15, "samples": 5}]
    joined = [{"first_sample": 10, "samples": 10}]
    check_phases(records_of(skip=parts), records_of(skip=joined), consumed=100, where="here")


def test_a_record_of_the_first_version_is_read(records_of: Any) -> None:
    now = records_of(shuffle="windows")
    old = {
        "first_sample": 0,
        "corpus": now[0]["sources"][0]["corpus"],
        "fingerprint": now[0]["sources"][0]["fingerprint"],
        "sequence_length": 32,
        "shuffle": "windows",
    }
    check_phases([old], now, consumed=500, where="here")
    with pytest.raises(ConfigError, match=r"data\.shuffle windows, this config has blocks"):
        check_phases([old], records_of(), consumed=500, where="here")


@pytest.mark.parametrize(
    ("key", "other", "message"),
    [
        ("packing", "pad", "data.packing concat"),
        ("sequence_length", 64, "data.sequence_length 32"),
        ("samples_per_unit", 8, "drawn together"),
        ("order", 2, "order of version"),
    ],
)
def test_another_length_or_packing_is_refused(
    records_of: Any, key: str, other: Any, message: str
) -> None:
    now = records_of()
    with pytest.raises(ConfigError, match=message):
        check_phases(now, [{**record, key: other} for record in now], consumed=8, where="here")
