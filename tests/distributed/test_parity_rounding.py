"""Gradients that consist only of rounding are not compared, and other faults are still found."""

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
from tests.distributed.parity_ranks import InjectFault, compare_with, forked
from tests.runs import tiny_config

STEPS = 2

Compare = Callable[..., LayoutResult]


@pytest.fixture(scope="module")
def reference_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A GPT in one process. Its k_layernorm.bias has no effect on the softmax, so no gradient."""
    folder = tmp_path_factory.mktemp("rounding")
    model = {"hidden_size": 144, "num_heads": 6, "ffn_hidden_size": 96, "qk_norm": True}
    config = tiny_config(corpus, folder / "runs", model={"num_layers": 2, **model})
    return config, measure_one_process(config, folder=folder / "alone", start=forked(STEPS))


@pytest.fixture
def compare(reference_run: Any, tmp_path: Path) -> Compare:
    """Returns a function that runs the model in a layout and compares it."""

    def compare_layout(layout: str, *, inject: InjectFault | None = None) -> LayoutResult:
        config, reference = reference_run
        row = compare_with(
            reference,
            config,
            layout,
            FP32_TOLERANCES,
            folder=tmp_path / "layout",
            steps=STEPS,
            inject=inject,
        )
        assert row.refusal is None and row.error is None
        return row

    return compare_layout


def test_a_gradient_of_only_rounding_is_not_compared_and_is_named(
    reference_run: Any, compare: Compare, tmp_path: Path
) -> None:
    _, reference = reference_run
    row = compare("tensor=2")
    assert not row.failures and row.comparison.differing == ()
    assert set(reference.rounding.rounding_only) == {
        f"decoder.layers.{layer}.self_attention.k_layernorm.bias" for layer in (0, 1)
    }
    assert render_rounding(reference)[0] == (
        "rounding only, not compared to the tolerance: the first-step gradients of "
        "decoder.layers.*.self_attention.k_layernorm.bias (2)"
    )
    # Without the perturbed runs these gradients would count as differences.
    unmeasured = Reference(
        reference.record, measure_rounding(reference.record, []), FP32_TOLERANCES
    )
    comparison = compare_records(Record(tmp_path / "layout"), unmeasured, FP32_TOLERANCES)
    assert set(comparison.differing) == set(reference.rounding.rounding_only)


def test_a_scale_error_of_1e_4_is_found_in_every_tensor_with_a_gradient(
    reference_run: Any, compare: Compare
) -> None:
    _, reference = reference_run
    row = compare("tensor=2", inject=parity_ranks.scale_gradients)
    expected = set(reference.record.shapes(GRADIENT)) - set(reference.rounding.rounding_only)
    assert "gradients" in row.failures
    assert set(row.comparison.differing) == expected
    assert row.comparison.gradients == pytest.approx(1e-4, rel=0.1)


@pytest.mark.parametrize(
    ("layout", "inject"),
    [
        ("tensor=2", parity_ranks.skip_head_sum),
        ("tensor=2", parity_ranks.sum_over_heads_twice),
        ("tensor=2 zero=2", parity_ranks.skip_sequence_sum),
        ("tensor=2 zero=2", parity_ranks.sum_over_tensor_ranks_twice),
    ],
)
def test_norm_gradients_not_summed_exactly_once_are_found(
    layout: str, inject: InjectFault, compare: Compare
) -> None:
    row = compare(layout, inject=inject)
    assert "gradients" in row.failures
    assert set(row.comparison.differing) == {
        f"decoder.layers.{layer}.self_attention.{name}"
        for layer in (0, 1)
        for name in ("q_layernorm.weight", "q_layernorm.bias", "k_layernorm.weight")
    }


def test_a_perturbed_run_without_perturbation_gives_equal_bits(
    reference_run: Any, tmp_path: Path
) -> None:
    config, reference = reference_run
    start = forked(STEPS, parity_ranks.keep_weights_unperturbed)
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
