"""Layouts give the figures of one process; for a faulty layout, the differing tensor is named."""

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
def one_process(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The config and the reference run in one process."""
    folder = tmp_path_factory.mktemp("parity")
    config = tiny_config(corpus, folder / "runs")
    reference = measure_one_process(config, folder=folder / "one_process", start=forked(STEPS))
    assert not config.run_dir.exists()
    return config, reference


@pytest.mark.parametrize("layout", EVERY_MECHANISM)
def test_a_layout_gives_the_figures_of_one_process(
    layout: str, one_process: Any, tmp_path: Path
) -> None:
    config, reference = one_process
    row = compare_with(
        reference, config, layout, TOLERANCES, folder=tmp_path / "layout", steps=STEPS
    )
    assert row.refusal is None and row.error is None
    assert not row.failures, row
    assert row.comparison is not None and row.comparison.differing == ()
    assert not config.run_dir.exists()


@pytest.mark.parametrize(
    ("layout", "fault", "first", "is_only_one"),
    [
        ("pipeline=2", parity_ranks.skip_tied_gradient_sum, EMBEDDING, True),
        ("pipeline=2 zero=3", parity_ranks.skip_tied_gradient_sum_of_partitions, EMBEDDING, True),
        (
            "tensor=2 sequence=true zero=2",
            parity_ranks.skip_sequence_sum,
            FIRST_NORM,
            False,
        ),
    ],
)
def test_a_fault_is_located_by_the_first_differing_tensor(
    layout: str, fault: Any, first: str, is_only_one: bool, one_process: Any, tmp_path: Path
) -> None:
    config, reference = one_process
    row = compare_with(
        reference, config, layout, TOLERANCES, folder=tmp_path / "layout", steps=STEPS, inject=fault
    )
    assert row.error is None and "gradients" in row.failures
    assert row.comparison is not None
    assert row.comparison.differing[0] == first
    assert (len(row.comparison.differing) == 1) == is_only_one


def test_data_ranks_that_diverge_from_each_other_are_detected(
    one_process: Any, tmp_path: Path
) -> None:
    config, reference = one_process
    row = compare_with(
        reference,
        config,
        "data=2",
        TOLERANCES,
        folder=tmp_path / "layout",
        steps=STEPS,
        inject=parity_ranks.skip_replica_average,
    )
    assert row.comparison is not None and "gradients" in row.failures
    assert len(row.comparison.differing) == len(reference.record.shapes("parameter"))


def test_a_wrong_update_is_distinguished_from_a_wrong_gradient(
    one_process: Any, tmp_path: Path
) -> None:
    config, reference = one_process
    row = compare_with(
        reference,
        config,
        "tensor=2",
        TOLERANCES,
        folder=tmp_path / "layout",
        steps=STEPS,
        inject=parity_ranks.double_learning_rate,
    )
    assert "parameters" in row.failures and "gradients" not in row.failures
    assert row.comparison is not None and row.comparison.differing[0] == EMBEDDING


def test_a_crashed_layout_is_a_row_with_the_error(one_process: Any, tmp_path: Path) -> None:
    config, reference = one_process
    row = compare_with(
        reference,
        config,
        "data=2",
        TOLERANCES,
        folder=tmp_path / "layout",
        steps=STEPS,
        inject=parity_ranks.crash_on_rank_1,
    )
    assert row.error is not None and "planted" in row.error
    assert not row.is_acceptable
