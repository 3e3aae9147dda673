"""An injected difference is found, measured and named; incomplete records are refused."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from bigtrain.config import ConfigError
from bigtrain.parity.compare import (
    FP32_TOLERANCES,
    Comparison,
    Reference,
    Tolerances,
    compare_records,
    parse_tolerances,
)
from bigtrain.parity.distance import CompareError
from bigtrain.parity.record import (
    GRADIENT,
    PARAMETER,
    FloatArray,
    Record,
    RecordedBox,
    RecordWriter,
    StepFigures,
)
from bigtrain.parity.rounding import measure_rounding

Tensors = dict[str, FloatArray]
STEPS = (StepFigures(loss=6.0, grad_norm=2.0), StepFigures(loss=5.0, grad_norm=1.0))


def _tensors(seed: int) -> Tensors:
    chance = np.random.default_rng(seed)
    shapes = {"embedding": (8, 4), "layers.0": (4, 4), "layers.10": (4, 4), "norm": (4,)}
    return {name: chance.normal(size=s).astype(np.float32) for name, s in shapes.items()}


GRADIENTS, PARAMETERS = _tensors(1), _tensors(2)


def _rows(tensors: Tensors, rank: int, ranks: int) -> Iterator[RecordedBox]:
    for name, array in tensors.items():
        rows = np.array_split(np.arange(len(array)), ranks)[rank]
        offset = (int(rows[0]), *(0,) * (array.ndim - 1))
        yield RecordedBox(name, array.shape, offset, array[rows], is_first_replica=True)


def write_record(
    folder: Path,
    *,
    gradients: Tensors = GRADIENTS,
    parameters: Tensors = PARAMETERS,
    ranks: int = 1,
    steps: tuple[StepFigures, ...] = STEPS,
    copies: Mapping[str, FloatArray] | None = None,
) -> Record:
    """Writes a record, some rows per rank; ``copies`` are the gradients of a second replica."""
    folder.mkdir()
    for rank in range(ranks):
        writer = RecordWriter(folder, rank=rank)
        replicas = [
            RecordedBox(name, values.shape, (0,) * values.ndim, values, is_first_replica=False)
            for name, values in (copies or {}).items()
        ]
        writer.write(GRADIENT, [*_rows(gradients, rank, ranks), *replicas])
        writer.write(PARAMETER, _rows(parameters, rank, ranks))
        writer.finish(steps)
    return Record(folder)


def compare(record: Record, one_process: Record, perturbed: Sequence[Record] = ()) -> Comparison:
    """Compares with the usual tolerances of fp32."""
    reference = Reference(one_process, measure_rounding(one_process, perturbed), FP32_TOLERANCES)
    return compare_records(record, reference, FP32_TOLERANCES)


def _changed(tensors: Tensors, *names: str, share: float) -> Tensors:
    """The tensors, with those in ``names`` changed by ``share`` of their norm."""
    moved = dict(tensors)
    for name in names:
        moved[name] = (tensors[name] * np.float32(1 + share)).astype(np.float32)
    return moved


def test_equal_values_in_other_boxes_do_not_differ(tmp_path: Path) -> None:
    one_process, halves = (
        write_record(tmp_path / "one_process"),
        write_record(tmp_path / "halves", ranks=2),
    )
    comparison = compare(halves, one_process)
    assert comparison.failures(Tolerances(0, 0, 0, 0)) == []
    assert comparison.differing == ()


def test_differing_gradients_are_named_in_model_order(tmp_path: Path) -> None:
    one_process = write_record(tmp_path / "one_process")
    other = _changed(GRADIENTS, "layers.10", share=0.5)
    other = _changed(other, "layers.0", share=1e-3)
    comparison = compare(write_record(tmp_path / "other", gradients=other, ranks=2), one_process)
    assert comparison.differing == ("layers.0", "layers.10")
    assert comparison.worst_gradient == "layers.10"
    assert comparison.gradients == pytest.approx(0.5, rel=1e-6)
    assert comparison.failures(FP32_TOLERANCES) == ["gradients"]


def test_parameters_are_measured_together_and_named_when_gradients_agree(tmp_path: Path) -> None:
    one_process = write_record(tmp_path / "one_process")
    other = _changed(PARAMETERS, "norm", share=1e-2)
    comparison = compare(write_record(tmp_path / "other", parameters=other), one_process)
    share = np.linalg.norm(PARAMETERS["norm"]) / math.hypot(
        *(float(np.linalg.norm(values)) for values in PARAMETERS.values())
    )
    assert comparison.parameters == pytest.approx(1e-2 * share, rel=1e-4)
    assert comparison.failures(FP32_TOLERANCES) == ["parameters"]
    assert comparison.differing == ("norm",)


@pytest.mark.parametrize("field", ["loss", "grad_norm"])
def test_the_worst_step_counts(field: str, tmp_path: Path) -> None:
    one_process = write_record(tmp_path / "one_process")
    second = StepFigures(**{"loss": 5.0, "grad_norm": 1.0, field: getattr(STEPS[1], field) * 1.01})
    comparison = compare(write_record(tmp_path / "o", steps=(STEPS[0], second)), one_process)
    assert getattr(comparison, field) == pytest.approx(0.01)
    assert comparison.failures(FP32_TOLERANCES) == [field]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_never_pass(value: float, tmp_path: Path) -> None:
    one_process = write_record(tmp_path / "one_process")
    gradients = {**GRADIENTS, "norm": np.full(4, value, dtype=np.float32)}
    parameters = {**PARAMETERS, "norm": np.full(4, value, dtype=np.float32)}
    steps = (STEPS[0], StepFigures(loss=value, grad_norm=value))
    other = write_record(
        tmp_path / "other", gradients=gradients, parameters=parameters, steps=steps
    )
    comparison = compare(other, one_process)
    assert comparison.failures(FP32_TOLERANCES) == ["loss", "grad_norm", "gradients", "parameters"]
    assert comparison.differing == ("norm",)


def test_a_copy_on_another_rank_must_be_equal(tmp_path: Path) -> None:
    one_process = write_record(tmp_path / "one_process")
    equal = write_record(tmp_path / "equal", copies={"embedding": GRADIENTS["embedding"]})
    assert compare(equal, one_process).gradients == 0.0
    drifted = {"embedding": GRADIENTS["embedding"] * np.float32(1.1)}
    comparison = compare(write_record(tmp_path / "drifted", copies=drifted), one_process)
    assert comparison.differing == ("embedding",)
    assert comparison.gradients == pytest.approx(0.1, rel=1e-5)


def test_a_gradient_that_is_zero_except_for_rounding_does_not_differ(tmp_path: Path) -> None:
    def with_norm(value: float) -> Tensors:
        return {**GRADIENTS, "norm": np.full(4, value, dtype=np.float32)}

    one_process = write_record(tmp_path / "one_process", gradients=with_norm(1e-12))
    noise = write_record(tmp_path / "noise", gradients=with_norm(-1e-12))
    assert compare(noise, one_process).gradients < FP32_TOLERANCES.gradients
    wrong = write_record(tmp_path / "wrong", gradients=with_norm(1e-6))
    assert compare(wrong, one_process).differing == ("norm",)


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    one_process = write_record(tmp_path / "one_process")
    fewer = {name: values for name, values in PARAMETERS.items() if name != "norm"}
    with pytest.raises(CompareError, match="parameter norm: its shape is none"):
        compare(write_record(tmp_path / "fewer", parameters=fewer), one_process)
    with pytest.raises(CompareError, match="1 steps were taken, 2 in one process"):
        compare(write_record(tmp_path / "short", steps=STEPS[:1]), one_process)


def test_an_incomplete_tensor_is_named(tmp_path: Path) -> None:
    one_process = write_record(tmp_path / "one_process")
    halves = write_record(tmp_path / "halves", ranks=2)
    (tmp_path / "halves" / GRADIENT / "rank-00001.json").unlink()
    with pytest.raises(CompareError, match="gradient embedding: of 32 elements, 16 are on no rank"):
        compare(Record(tmp_path / "halves"), one_process)
    assert halves.shapes(GRADIENT) == one_process.shapes(GRADIENT)


def test_given_tolerances_replace_the_defaults() -> None:
    assert parse_tolerances("", FP32_TOLERANCES) == FP32_TOLERANCES
    read = parse_tolerances("loss=1e-3 parameters=0", FP32_TOLERANCES)
    assert read == Tolerances(loss=1e-3, parameters=0.0)


@pytest.mark.parametrize("text", ["loss", "loss=", "losses=1", "loss=-1", "loss=nan", "loss=x"])
def test_invalid_tolerances_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not one of loss, grad_norm, gradients, parameters"):
        parse_tolerances(text, FP32_TOLERANCES)
