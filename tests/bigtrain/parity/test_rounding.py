"""Differences within the measured rounding are accepted, and no other differences are hidden."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bigtrain.parity.compare import FP32_TOLERANCES, Reference
from bigtrain.parity.record import Record, StepFigures
from bigtrain.parity.result_table import render_rounding
from bigtrain.parity.rounding import MARGIN, measure_rounding
from tests.bigtrain.parity.test_compare import (
    GRADIENTS,
    PARAMETERS,
    STEPS,
    Tensors,
    compare,
    write_record,
)


def _with_norm(value: float, tensors: Tensors = GRADIENTS) -> Tensors:
    return {**tensors, "norm": np.full(4, value, dtype=np.float32)}


def _perturbed(folder: Path, gradients: Sequence[Tensors]) -> list[Record]:
    return [
        write_record(folder / f"perturbed-{number}", gradients=each)
        for number, each in enumerate(gradients)
    ]


def test_a_gradient_of_only_rounding_may_differ_by_the_measured_rounding(tmp_path: Path) -> None:
    one_process = write_record(tmp_path / "one_process", gradients=_with_norm(1e-7))
    # One of two perturbed runs may give the same by chance.
    perturbed = _perturbed(tmp_path, [_with_norm(1e-7), _with_norm(-1e-7)])
    other = write_record(tmp_path / "other", gradients=_with_norm(-2e-7))
    assert compare(other, one_process).differing == ("norm",)
    comparison = compare(other, one_process, perturbed)
    assert comparison.failures(FP32_TOLERANCES) == [] and comparison.differing == ()
    wrong = write_record(tmp_path / "wrong", gradients=_with_norm(1.1e-7 + MARGIN * 2e-7))
    assert compare(wrong, one_process, perturbed).differing == ("norm",)


@pytest.mark.parametrize("share", [0.0, 1e-7, 2e-6])
def test_a_gradient_that_rounding_hardly_changes_keeps_its_tolerance(
    share: float, tmp_path: Path
) -> None:
    one_process = write_record(tmp_path / "one_process")
    perturbed = _perturbed(tmp_path, [_with_norm_moved(share)])
    near = write_record(tmp_path / "near", gradients=_with_norm_moved(9e-6))
    far = write_record(tmp_path / "far", gradients=_with_norm_moved(1.1e-5))
    assert compare(near, one_process, perturbed).gradients == pytest.approx(9e-6, rel=0.05)
    assert compare(far, one_process, perturbed).differing == ("norm",)


def _with_norm_moved(share: float) -> Tensors:
    return {**GRADIENTS, "norm": (GRADIENTS["norm"] * np.float32(1 + share)).astype(np.float32)}


def test_parameters_changed_by_rounding_in_adam_hide_no_other_parameter(tmp_path: Path) -> None:
    def record(name: str, *, norm: float, factor: float = 1.0) -> Record:
        tensors = _with_norm(norm, PARAMETERS)
        tensors["embedding"] = tensors["embedding"] * np.float32(factor)
        return write_record(tmp_path / name, parameters=tensors)

    one_process, perturbed = record("one_process", norm=1e-3), [record("perturbed", norm=-1e-3)]
    other = record("other", norm=-2e-3)
    assert compare(other, one_process).failures(FP32_TOLERANCES) == ["parameters"]
    assert compare(other, one_process, perturbed).failures(FP32_TOLERANCES) == []
    wrong = compare(record("wrong", norm=-1e-3, factor=1 + 1e-3), one_process, perturbed)
    assert wrong.failures(FP32_TOLERANCES) == ["parameters"]
    assert wrong.differing == ("embedding",)


@pytest.mark.parametrize("field", ["loss", "grad_norm"])
def test_a_step_may_differ_by_the_rounding_accumulated_so_far(field: str, tmp_path: Path) -> None:
    def record(name: str, *moves: float) -> Record:
        figures = [{"loss": 5.0, "grad_norm": 1.0} for _ in moves]
        for figure, move in zip(figures, moves, strict=True):
            figure[field] *= 1 + move
        return write_record(tmp_path / name, steps=[StepFigures(**each) for each in figures])

    one_process = record("one_process", 0.0, 0.0, 0.0)
    perturbed = [record("perturbed", 1e-8, 1e-4, 1e-6)]
    assert (
        compare(record("later", 0.0, 3e-4, 3e-4), one_process, perturbed).failures(FP32_TOLERANCES)
        == []
    )
    assert compare(record("first", 2e-5, 0.0, 0.0), one_process, perturbed).failures(
        FP32_TOLERANCES
    ) == [field]
    assert compare(record("beyond", 0.0, 0.0, 5e-4), one_process, perturbed).failures(
        FP32_TOLERANCES
    ) == [field]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_perturbed_run_that_is_not_finite_is_ignored(value: float, tmp_path: Path) -> None:
    one_process = write_record(tmp_path / "one_process")
    perturbed = write_record(
        tmp_path / "perturbed",
        gradients=_with_norm(value),
        parameters=_with_norm(value, PARAMETERS),
        steps=(STEPS[0], StepFigures(loss=value, grad_norm=value)),
    )
    assert measure_rounding(one_process, [perturbed]) == measure_rounding(
        one_process, [one_process]
    )


def test_notes_name_tensors_whose_rounding_exceeds_the_tolerance(tmp_path: Path) -> None:
    def record(name: str, *, zero: float, part: float, step: StepFigures) -> Record:
        gradients = {
            **GRADIENTS,
            "layers.0.bias": np.full(4, zero, dtype=np.float32),
            "layers.1.bias": np.full(4, zero, dtype=np.float32),
            "norm": np.full(4, 1 + part, dtype=np.float32),
        }
        parameters = {**PARAMETERS, "layers.0.bias": np.full(4, 1e6 * zero, dtype=np.float32)}
        own = tmp_path / name
        return write_record(own, gradients=gradients, parameters=parameters, steps=(STEPS[0], step))

    one_process = record("one_process", zero=1e-9, part=0.0, step=STEPS[1])
    moved = StepFigures(loss=STEPS[1].loss, grad_norm=STEPS[1].grad_norm * (1 + 1e-4))
    perturbed = record("perturbed", zero=-1e-9, part=1e-4, step=moved)
    reference = Reference(one_process, measure_rounding(one_process, [perturbed]), FP32_TOLERANCES)
    only, partly, norm, parameters = render_rounding(reference)
    assert only == (
        "rounding only, not compared to the tolerance: the first-step gradients of "
        "layers.*.bias (2)"
    )
    assert partly == (
        "rounding explains up to 4.0e-04 of some first-step gradients, more than 1e-05: norm"
    )
    assert norm == (
        "rounding explains up to 4.0e-04 of the gradient norm, more than 1e-05 from step 2 on"
    )
    assert parameters.startswith("rounding explains up to ")
    assert parameters.endswith("are scaled down, most in layers.0.bias")
    quiet = Reference(one_process, measure_rounding(one_process, [one_process]), FP32_TOLERANCES)
    assert render_rounding(quiet) == []
