"""What rounding explains is no difference, and hides nothing that it does not explain."""

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


def test_a_gradient_of_rounding_may_differ_by_what_rounding_explains(tmp_path: Path) -> None:
    alone = write_record(tmp_path / "alone", gradients=_with_norm(1e-7))
    # By chance one of two perturbed runs gives the same.
    perturbed = _perturbed(tmp_path, [_with_norm(1e-7), _with_norm(-1e-7)])
    other = write_record(tmp_path / "other", gradients=_with_norm(-2e-7))
    assert compare(other, alone).differing == ("norm",)
    comparison = compare(other, alone, perturbed)
    assert comparison.failures(FP32_TOLERANCES) == [] and comparison.differing == ()
    wrong = write_record(tmp_path / "wrong", gradients=_with_norm(1.1e-7 + MARGIN * 2e-7))
    assert compare(wrong, alone, perturbed).differing == ("norm",)


@pytest.mark.parametrize("share", [0.0, 1e-7, 2e-6])
def test_a_gradient_that_rounding_hardly_moves_keeps_its_tolerance(
    share: float, tmp_path: Path
) -> None:
    alone = write_record(tmp_path / "alone")
    perturbed = _perturbed(tmp_path, [_with_norm_moved(share)])
    near = write_record(tmp_path / "near", gradients=_with_norm_moved(9e-6))
    far = write_record(tmp_path / "far", gradients=_with_norm_moved(1.1e-5))
    assert compare(near, alone, perturbed).gradients == pytest.approx(9e-6, rel=0.05)
    assert compare(far, alone, perturbed).differing == ("norm",)


def _with_norm_moved(share: float) -> Tensors:
    return {**GRADIENTS, "norm": (GRADIENTS["norm"] * np.float32(1 + share)).astype(np.float32)}


def test_what_rounding_moves_after_adams_steps_hides_no_other_parameter(tmp_path: Path) -> None:
    def record(name: str, *, norm: float, factor: float = 1.0) -> Record:
        tensors = _with_norm(norm, PARAMETERS)
        tensors["embedding"] = tensors["embedding"] * np.float32(factor)
        return write_record(tmp_path / name, parameters=tensors)

    alone, perturbed = record("alone", norm=1e-3), [record("perturbed", norm=-1e-3)]
    other = record("other", norm=-2e-3)
    assert compare(other, alone).failures(FP32_TOLERANCES) == ["parameters"]
    assert compare(other, alone, perturbed).failures(FP32_TOLERANCES) == []
    wrong = compare(record("wrong", norm=-1e-3, factor=1 + 1e-3), alone, perturbed)
    assert wrong.failures(FP32_TOLERANCES) == ["parameters"]
    assert wrong.differing == ("embedding",)


@pytest.mark.parametrize("field", ["loss", "grad_norm"])
def test_a_step_may_differ_by_what_rounding_has_grown_to(field: str, tmp_path: Path) -> None:
    def record(name: str, *moves: float) -> Record:
        figures = [{"loss": 5.0, "grad_norm": 1.0} for _ in moves]
        for figure, move in zip(figures, moves, strict=True):
            figure[field] *= 1 + move
        return write_record(tmp_path / name, steps=[StepFigures(**each) for each in figures])

    alone = record("alone", 0.0, 0.0, 0.0)
    perturbed = [record("perturbed", 1e-8, 1e-4, 1e-6)]
    assert (
        compare(record("later", 0.0, 3e-4, 3e-4), alone, perturbed).failures(FP32_TOLERANCES) == []
    )
    assert compare(record("first", 2e-5, 0.0, 0.0), alone, perturbed).failures(FP32_TOLERANCES) == [
        field
    ]
    assert compare(record("beyond", 0.0, 0.0, 5e-4), alone, perturbed).failures(
        FP32_TOLERANCES
    ) == [field]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_perturbed_run_that_is_not_finite_explains_nothing(value: float, tmp_path: Path) -> None:
    alone = write_record(tmp_path / "alone")
    perturbed = write_record(
        tmp_path / "perturbed",
        gradients=_with_norm(value),
        parameters=_with_norm(value, PARAMETERS),
        steps=(STEPS[0], StepFigures(loss=value, grad_norm=value)),
    )
    assert measure_rounding(alone, [perturbed]) == measure_rounding(alone, [alone])


def test_notes_say_of_what_rounding_explains_more_than_the_tolerance(tmp_path: Path) -> None:
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

    alone = record("alone", zero=1e-9, part=0.0, step=STEPS[1])
    moved = StepFigures(loss=STEPS[1].loss, grad_norm=STEPS[1].grad_norm * (1 + 1e-4))
    perturbed = record("perturbed", zero=-1e-9, part=1e-4, step=moved)
    reference = Reference(alone, measure_rounding(alone, [perturbed]), FP32_TOLERANCES)
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
    quiet = Reference(alone, measure_rounding(alone, [alone]), FP32_TOLERANCES)
    assert render_rounding(quiet) == []
