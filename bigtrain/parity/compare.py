"""How far two layouts are apart: tensor by tensor, as a share of the one process's norm. No torch.

Differences are relative, ‖a − b‖ / ‖b‖ with ``b`` of one process, and taken in fp64.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from bigtrain.config import ConfigError
from bigtrain.parity.record import GRADIENT, PARAMETER, FloatArray, Record

NOISE = 2.0**-23
"""A unit in the last place of fp32. A tensor whose gradient is below this share of the whole
gradient is zero but for rounding (key biases, say), and is measured against the whole."""


class CompareError(ValueError):
    """Two records are not of the same tensors; the message is one line."""


@dataclass(frozen=True, slots=True)
class Tolerances:
    """The largest relative difference that passes."""

    loss: float = 1e-5
    """Of any step's loss."""
    grad_norm: float = 1e-5
    """Of any step's gradient norm, before clipping."""
    gradients: float = 1e-5
    """Of any tensor's gradient in the first step."""
    parameters: float = 1e-4
    """Of all parameters together after the last step. Not of each: Adam divides by the gradient's
    own size, and so makes large steps of mere rounding where a gradient is zero."""


IN_FP32 = Tolerances()
IN_BF16 = Tolerances(loss=2**-10, grad_norm=2**-6, gradients=2**-5, parameters=2**-6)
"""Whatever tensor ranks and stages hand on is rounded to 8 bits, and Adam makes a step of its own
size of every small gradient whose sign the rounding decides. Data ranks alone hand on fp32."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The largest relative differences of a layout from one process."""

    loss: float
    grad_norm: float
    gradients: float
    parameters: float
    gradient_of: str
    """The tensor whose first-step gradient differs most."""
    differing: tuple[str, ...]
    """Tensors whose first-step gradient is not within the tolerance, in model order; if all are,
    those whose parameters are not."""

    def failures(self, tolerances: Tolerances) -> list[str]:
        """Which of the four are not within their tolerance."""
        return [
            field.name
            for field in fields(tolerances)
            if not getattr(self, field.name) <= getattr(tolerances, field.name)
        ]


def parse_tolerances(text: str, base: Tolerances) -> Tolerances:
    """Reads tolerances such as ``loss=1e-5 parameters=1e-4``; what is not named stays.

    Raises:
        ConfigError: A word is not one of the four with a number above zero.
    """
    names = [field.name for field in fields(base)]
    values = {name: getattr(base, name) for name in names}
    for word in text.split():
        name, _, number = word.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if name not in names or not 0 <= value < math.inf:
            raise ConfigError(
                f"tolerances: {word} is not one of {', '.join(names)} with a number; write "
                '"loss=1e-5 parameters=1e-4", for one'
            )
        values[name] = value
    return Tolerances(**values)


def compare_records(record: Record, alone: Record, tolerances: Tolerances) -> Comparison:
    """Compares what a layout wrote with what one process wrote.

    Raises:
        CompareError: They took another number of steps, or hold other tensors, or one has holes.
    """
    if len(record.steps) != len(alone.steps):
        raise CompareError(f"{len(record.steps)} steps were taken, {len(alone.steps)} alone")
    gradients = _distances(record, alone, GRADIENT)
    parameters = _distances(record, alone, PARAMETER)
    floor = NOISE * _norm(distance.norm for distance in gradients.values())
    of_gradients = {name: gradients[name].relative(floor) for name in parameters}
    together = _Distance(
        difference=_norm(distance.difference for distance in parameters.values()),
        norm=_norm(distance.norm for distance in parameters.values()),
    ).relative()
    differing = _above(tolerances.gradients, of_gradients)
    if not differing and not together <= tolerances.parameters:
        of_parameters = {name: each.relative() for name, each in parameters.items()}
        differing = _above(tolerances.parameters, of_parameters)
    worst = max(of_gradients, key=lambda name: of_gradients[name])
    return Comparison(
        loss=_largest([step.loss for step in record.steps], [step.loss for step in alone.steps]),
        grad_norm=_largest(
            [step.grad_norm for step in record.steps], [step.grad_norm for step in alone.steps]
        ),
        gradients=of_gradients[worst],
        parameters=together,
        gradient_of=worst,
        differing=differing,
    )


@dataclass(frozen=True, slots=True)
class _Distance:
    """Norms of a difference and of what it is measured against."""

    difference: float
    norm: float

    def relative(self, floor: float = 0.0) -> float:
        if self.difference == 0.0:
            return 0.0
        against = max(self.norm, floor)
        share = self.difference / against if against else math.inf
        return math.inf if math.isnan(share) else share


def _above(tolerance: float, differences: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(name for name, difference in differences.items() if difference > tolerance)


def _distances(record: Record, alone: Record, kind: str) -> dict[str, _Distance]:
    """Of every tensor, in model order, which is that of one process."""
    expected, found = alone.shapes(kind), record.shapes(kind)
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            ours, theirs = (shapes.get(name, "none") for shapes in (found, expected))
            raise CompareError(f"{kind} {name}: its shape is {ours}, and {theirs} in one process")
    return {name: _distance(record, _assemble(alone, kind, name), kind, name) for name in expected}


def _distance(record: Record, alone: FloatArray, kind: str, name: str) -> _Distance:
    """Of the tensor and of its replicas, which must be the same: the larger counts."""
    squares = {True: 0.0, False: 0.0}
    covered = np.zeros(alone.shape, dtype=np.int8)
    for box, values in record.boxes(kind, name):
        difference = values.astype(np.float64) - alone[box.region]
        squares[box.is_first_replica] += float(np.sum(difference**2))
        covered[box.region] += box.is_first_replica
    _check_covered(covered, f"{kind} {name}")
    return _Distance(math.sqrt(max(squares.values(), key=_nan_first)), _size(alone))


def _assemble(record: Record, kind: str, name: str) -> FloatArray:
    shape = record.shapes(kind)[name]
    whole, covered = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.int8)
    for box, values in record.boxes(kind, name):
        if box.is_first_replica:
            whole[box.region] = values
            covered[box.region] += 1
    _check_covered(covered, f"{kind} {name}")
    return whole


def _check_covered(covered: NDArray[np.int8], what: str) -> None:
    missing, twice = int(np.sum(covered == 0)), int(np.sum(covered > 1))
    if missing or twice:
        raise CompareError(
            f"{what}: of {covered.size} elements no rank keeps {missing}, and several {twice}"
        )


def _largest(ours: Sequence[float], alone: Sequence[float]) -> float:
    pairs = zip(ours, alone, strict=True)
    return max(_Distance(abs(our - one), abs(one)).relative() for our, one in pairs)


def _size(array: FloatArray) -> float:
    return float(np.sqrt(np.sum(array.astype(np.float64) ** 2)))


def _norm(norms: Iterable[float]) -> float:
    return math.sqrt(sum(norm**2 for norm in norms))


def _nan_first(value: float) -> float:
    return math.inf if math.isnan(value) else value
