"""The norm of the difference of two records, for each tensor, from boxes on disk. No torch.

Differences are taken in fp64.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bigtrain.parity.record import FloatArray, Record


class CompareError(ValueError):
    """Two records do not hold the same tensors; the message is one line."""


@dataclass(frozen=True, slots=True)
class Distance:
    """The norm of a difference and the norm that it is compared with."""

    difference: float
    norm: float

    def relative(self, floor: float = 0.0) -> float:
        """The difference divided by the norm, or by ``floor`` if that is larger."""
        if self.difference == 0.0:
            return 0.0
        against = max(self.norm, floor)
        share = self.difference / against if against else math.inf
        return math.inf if math.isnan(share) else share


def distances(record: Record, reference: Record, kind: str) -> dict[str, Distance]:
    """The distance of every tensor of a kind, in the order of the record of one process.

    Raises:
        CompareError: The records hold different tensors, or one is incomplete.
    """
    expected, found = reference.shapes(kind), record.shapes(kind)
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            ours, theirs = (shapes.get(name, "none") for shapes in (found, expected))
            raise CompareError(f"{kind} {name}: its shape is {ours}, and {theirs} in one process")
    return {
        name: _distance(record, _assemble(reference, kind, name), kind, name) for name in expected
    }


def _distance(record: Record, reference: FloatArray, kind: str, name: str) -> Distance:
    """The larger distance of the tensor and of its replicas, which must be equal to it."""
    squares = {True: 0.0, False: 0.0}
    covered = np.zeros(reference.shape, dtype=np.int8)
    for box in record.boxes(kind, name):
        difference = box.values.astype(np.float64) - reference[box.region]
        squares[box.is_first_replica] += float(np.sum(difference**2))
        covered[box.region] += box.is_first_replica
    _check_covered(covered, f"{kind} {name}")
    return Distance(math.sqrt(max(squares.values(), key=_nan_first)), _norm(reference))


def _assemble(record: Record, kind: str, name: str) -> FloatArray:
    shape = record.shapes(kind)[name]
    tensor, covered = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.int8)
    for box in record.boxes(kind, name):
        if box.is_first_replica:
            tensor[box.region] = box.values
            covered[box.region] += 1
    _check_covered(covered, f"{kind} {name}")
    return tensor


def _check_covered(covered: NDArray[np.int8], what: str) -> None:
    missing, twice = int(np.sum(covered == 0)), int(np.sum(covered > 1))
    if missing or twice:
        raise CompareError(
            f"{what}: of {covered.size} elements, {missing} are on no rank and {twice} on several"
        )


def _norm(array: FloatArray) -> float:
    return float(np.sqrt(np.sum(array.astype(np.float64) ** 2)))


def _nan_first(value: float) -> float:
    return math.inf if math.isnan(value) else value
