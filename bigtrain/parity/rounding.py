"""Measures the effect of rounding on a run's first steps, to compare differences with it.

Some gradients are zero in exact arithmetic. For example, one number added to the scores of all
keys does not change the softmax, so a bias that does only that (``k_layernorm.bias``) has a
gradient of rounding errors, and Adam turns them into full steps. Other gradients cancel in part,
and losses and norms of later steps can magnify rounding. A fixed share of a norm cannot
distinguish these from a fault.

So one process repeats its steps several times, each time from initial weights that are changed
at random by one unit in the last place. Every operation then rounds differently, as it does in
another layout, and the exact result changes by at most as much as rounding changes it. This is
Monte Carlo arithmetic with perturbed inputs (Parker, "Monte Carlo Arithmetic", UCLA CSD-970002,
1997). Two alternatives were rejected: the same sums in another order repeat the rounding errors
within each sample, and a reference in fp64 needs kernels that GPUs and DeepSpeed do not have.

In a tensor whose gradient is rounding only, a fault is found if its difference exceeds rounding. A
smaller fault has no larger effect on training than rounding has.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bigtrain.parity.distance import Distance, distances
from bigtrain.parity.record import GRADIENT, PARAMETER, Record, StepFigures

PERTURBED_RUNS = 4
"""The largest difference of these runs is used: that of a single run may be small by chance."""
MARGIN = 4.0
"""A difference of up to this many times the largest one of the perturbed runs is attributed to
rounding. In 60 random models in random layouts the largest factor needed was 1.64."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """The largest differences that rounding explains, each with the norm to compare it with."""

    gradients: Mapping[str, Distance]
    """For each tensor's first-step gradient."""
    parameters: Mapping[str, Distance]
    """For each tensor after the last step."""
    losses: tuple[Distance, ...]
    """For each step."""
    grad_norms: tuple[Distance, ...]
    """For each step."""

    @property
    def rounding_only(self) -> list[str]:
        """Tensors whose first-step gradient is only rounding errors."""
        return [name for name, each in self.gradients.items() if _is_rounding_only(each)]


def measure_rounding(reference: Record, perturbed: Sequence[Record]) -> Rounding:
    """Measures the differences attributed to rounding.

    Each is ``MARGIN`` times the largest difference of a perturbed run.

    Args:
        reference: The record of one process.
        perturbed: The records of the perturbed runs.

    Raises:
        CompareError: A record is incomplete.
    """
    return Rounding(
        gradients=_of_tensors(reference, perturbed, GRADIENT),
        parameters=_of_tensors(reference, perturbed, PARAMETER),
        losses=_of_steps(reference, perturbed, lambda step: step.loss),
        grad_norms=_of_steps(reference, perturbed, lambda step: step.grad_norm),
    )


def _of_tensors(reference: Record, perturbed: Sequence[Record], kind: str) -> dict[str, Distance]:
    explained = dict.fromkeys(reference.shapes(kind), Distance(0.0, 0.0))
    for record in perturbed:
        for name, distance in distances(record, reference, kind).items():
            largest = max(explained[name].difference, _explained(distance.difference))
            explained[name] = Distance(largest, distance.norm)
    return explained


def _of_steps(
    reference: Record, perturbed: Sequence[Record], figure: Callable[[StepFigures], float]
) -> tuple[Distance, ...]:
    explained, largest = [], 0.0
    for number, step in enumerate(reference.steps):
        # Never less than in an earlier step: two runs that differ may agree later by chance.
        for record in perturbed:
            difference = abs(figure(record.steps[number]) - figure(step))
            largest = max(largest, _explained(difference))
        explained.append(Distance(largest, abs(figure(step))))
    return tuple(explained)


def _is_rounding_only(gradient: Distance) -> bool:
    """Whether a perturbed run changed it by at least half of its norm."""
    return gradient.difference > 0.0 and gradient.difference >= MARGIN / 2 * gradient.norm


def _explained(difference: float) -> float:
    # A perturbed run that overflows explains nothing.
    return MARGIN * difference if math.isfinite(difference) else 0.0
