"""Gradients that are rounding alone do not differ, and faults beside them are still found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config.config_files import render_config
from bigtrain.parity.compare import FP32_TOLERANCES, Reference, compare_records
from bigtrain.parity.distance import distances
from bigtrain.parity.layout_runs import LayoutResult, measure_one_process
from bigtrain.parity.record import GRADIENT, PARAMETER, Record, perturbed_folder
from bigtrain.parity.result_table import render_rounding
from bigtrain.parity.rounding import measure_rounding
from tests.distributed import parity_ranks
from tests.distributed.parity_ranks import Plant, compare_with, forked
from tests.runs import tiny_config

STEPS = 2

Compare = Callable[..., LayoutResult]


@pytest.fixture(scope="module")
def cancelling(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A GPT whose k_layernorm.bias changes no softmax, in one process."""
    folder = tmp_path_factory.mktemp("rounding")
    model = {"hidden_size": 144, "num_heads": 6, "ffn_hidden_size": 96, "qk_norm": True}
    config = tiny_config(corpus, folder / "runs", model={"num_layers": 2, **model})
    return config, measure_one_process(config, folder=folder / "alone", start=forked(STEPS))


@pytest.fixture
def compare(cancelling: Any, tmp_path: Path) -> Compare:
    """Runs a layout of it and compares."""

    def compare_layout(layout: str, *, plant: Plant | None = None) -> LayoutResult:
        config, reference = cancelling
        row = compare_with(
            reference,
            config,
            layout,
            FP32_TOLERANCES,
            folder=tmp_path / "layout",
            steps=STEPS,
            plant=plant,
        )
        assert row.refusal is None and row.error is None
        return row

    return compare_layout


def test_a_gradient_that_is_rounding_alone_is_no_difference_and_is_named(
    cancelling: Any, compare: Compare, tmp_path: Path
) -> None:
    _, reference = cancelling
    row = compare("tensor=2")
    assert not row.failures and row.comparison.differing == ()
    assert set(reference.rounding.rounding_only) == {
        f"decoder.layers.{layer}.self_attention.k_layernorm.bias" for layer in (0, 1)
    }
    assert render_rounding(reference)[0] == (
        "rounding only, not compared to the tolerance: the first-step gradients of "
        "decoder.layers.*.self_attention.k_layernorm.bias (2)"
    )
    # Without the perturbed runs it would be one.
    unmeasured = Reference(
        reference.record, measure_rounding(reference.record, []), FP32_TOLERANCES
    )
    comparison = compare_records(Record(tmp_path / "layout"), unmeasured, FP32_TOLERANCES)
    assert set(comparison.differing) == set(reference.rounding.rounding_only)


def test_a_scale_off_by_1e_4_is_found_in_every_tensor_that_has_a_gradient(
    cancelling: Any, compare: Compare
) -> None:
    _, reference = cancelling
    row = compare("tensor=2", plant=parity_ranks.scale_gradients)
    expected = set(reference.record.shapes(GRADIENT)) - set(reference.rounding.rounding_only)
    assert "gradients" in row.failures
    assert set(row.comparison.differing) == expected
    assert row.comparison.gradients == pytest.approx(1e-4, rel=0.1)


@pytest.mark.parametrize(
    ("layout", "plant"),
    [
        ("tensor=2", parity_ranks.forget_to_add_over_heads),
        ("tensor=2", parity_ranks.add_over_heads_twice),
        ("tensor=2 zero=2", parity_ranks.forget_to_add_over_the_sequence),
        ("tensor=2 zero=2", parity_ranks.add_over_tensor_ranks_twice),
    ],
)
def test_norms_of_heads_that_are_summed_not_once_are_found(
    layout: str, plant: Plant, compare: Compare
) -> None:
    row = compare(layout, plant=plant)
    assert "gradients" in row.failures
    assert set(row.comparison.differing) == {
        f"decoder.layers.{layer}.self_attention.{name}"
        for layer in (0, 1)
        for name in ("q_layernorm.weight", "q_layernorm.bias", "k_layernorm.weight")
    }


def test_a_perturbed_run_that_is_not_perturbed_gives_equal_bits(
    cancelling: Any, tmp_path: Path
) -> None:
    config, reference = cancelling
    start = forked(STEPS, parity_ranks.leave_weights_unmoved)
    (tmp_path / "again").mkdir()
    config_file = tmp_path / "config.yaml"
    config_file.write_text(render_config(config))
    assert start(config_file, 1, tmp_path / "again", perturbed_runs=1) is None
    for folder in (tmp_path / "again", perturbed_folder(tmp_path / "again", 1)):
        again = Record(folder)
        assert again.steps == reference.record.steps
        for kind in (GRADIENT, PARAMETER):
            found = distances(again, reference.record, kind)
            assert all(each.difference == 0.0 for each in found.values())
