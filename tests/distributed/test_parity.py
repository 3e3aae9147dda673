"""Layouts give the numbers of one process, and a layout that does not is told by its tensor."""

from pathlib import Path
from typing import Any

import pytest

from bigtrain.parity.compare import Tolerances
from bigtrain.parity.layout_runs import measure_one_process
from tests.distributed import parity_ranks
from tests.distributed.parity_ranks import compare_with, forked
from tests.runs import tiny_config

STEPS = 2
TOLERANCES = Tolerances(loss=1e-6, grad_norm=2e-6, gradients=5e-6, parameters=5e-6)

EVERY_MECHANISM = (
    "tensor=2 sequence=true data=2 zero=3",
    "pipeline=2 virtual_pipeline=2 data=2 zero=2",
    "tensor=2 pipeline=2",
    "data=2",
)
"""Each kind of split, each ZeRO stage but the first, and tied weights on two stages."""

EMBEDDING = "embedding.word_embeddings.weight"
FIRST_NORM = "decoder.layers.0.self_attention.linear_qkv.layer_norm_weight"


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run in one process."""
    folder = tmp_path_factory.mktemp("parity")
    config = tiny_config(corpus, folder / "runs")
    reference = measure_one_process(config, folder=folder / "alone", start=forked(STEPS))
    assert not config.run_dir.exists()
    return config, reference


@pytest.mark.parametrize("layout", EVERY_MECHANISM)
def test_a_layout_gives_the_numbers_of_one_process(layout: str, alone: Any, tmp_path: Path) -> None:
    config, reference = alone
    row = compare_with(
        reference, config, layout, TOLERANCES, folder=tmp_path / "layout", steps=STEPS
    )
    assert row.refusal is None and row.error is None
    assert not row.failures, row
    assert row.comparison is not None and row.comparison.differing == ()
    assert not config.run_dir.exists()


@pytest.mark.parametrize(
    ("layout", "fault", "first", "is_alone"),
    [
        ("pipeline=2", parity_ranks.forget_to_add_tied_gradients, EMBEDDING, True),
        ("pipeline=2 zero=3", parity_ranks.forget_to_add_tied_gradients_in_shares, EMBEDDING, True),
        (
            "tensor=2 sequence=true zero=2",
            parity_ranks.forget_to_add_over_the_sequence,
            FIRST_NORM,
            False,
        ),
    ],
)
def test_a_fault_is_told_by_the_first_tensor_that_differs(
    layout: str, fault: Any, first: str, is_alone: bool, alone: Any, tmp_path: Path
) -> None:
    config, reference = alone
    row = compare_with(
        reference, config, layout, TOLERANCES, folder=tmp_path / "layout", steps=STEPS, plant=fault
    )
    assert row.error is None and "gradients" in row.failures
    assert row.comparison is not None
    assert row.comparison.differing[0] == first
    assert (len(row.comparison.differing) == 1) == is_alone


def test_data_ranks_that_go_apart_are_told_though_each_learns(alone: Any, tmp_path: Path) -> None:
    config, reference = alone
    row = compare_with(
        reference,
        config,
        "data=2",
        TOLERANCES,
        folder=tmp_path / "layout",
        steps=STEPS,
        plant=parity_ranks.forget_to_average_over_replica_ranks,
    )
    assert row.comparison is not None and "gradients" in row.failures
    assert len(row.comparison.differing) == len(reference.record.shapes("parameter"))


def test_a_wrong_update_is_told_from_a_wrong_gradient(alone: Any, tmp_path: Path) -> None:
    config, reference = alone
    row = compare_with(
        reference,
        config,
        "tensor=2",
        TOLERANCES,
        folder=tmp_path / "layout",
        steps=STEPS,
        plant=parity_ranks.update_at_twice_the_rate,
    )
    assert "parameters" in row.failures and "gradients" not in row.failures
    assert row.comparison is not None and row.comparison.differing[0] == EMBEDDING


def test_a_layout_that_crashes_is_a_row_with_its_reason(alone: Any, tmp_path: Path) -> None:
    config, reference = alone
    row = compare_with(
        reference,
        config,
        "data=2",
        TOLERANCES,
        folder=tmp_path / "layout",
        steps=STEPS,
        plant=parity_ranks.crash_on_rank_one,
    )
    assert row.error is not None and "planted" in row.error
    assert not row.is_acceptable
