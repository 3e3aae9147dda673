"""How much a layout differs from one process: each tensor relative to its norm. No torch.

Relative difference = difference / max(norm, rounding / tolerance). So a difference that is not
larger than rounding passes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from bigtrain.config import ConfigError, RunConfig
from bigtrain.parity.distance import CompareError, Distance, distances
from bigtrain.parity.record import GRADIENT, PARAMETER, Record
from bigtrain.parity.rounding import Rounding

MIN_NORM_SHARE = 2.0**-23
"""A tensor's gradient is compared with its own norm, but at least with this share of the norm of
all gradients: a unit in the last place of fp32."""


@dataclass(frozen=True, slots=True)
class Tolerances:
    """The largest relative difference that passes."""

    loss: float = 1e-5
    """For the loss of each step."""
    grad_norm: float = 1e-5
    """For the gradient norm of each step, before clipping."""
    gradients: float = 1e-5
    """For the gradient of each tensor in the first step."""
    parameters: float = 1e-4
    """For all parameters together after the last step, not for each: Adam divides by the size of
    the gradient, so where a gradient is zero it turns rounding errors into large steps."""


FP32_TOLERANCES = Tolerances()
BF16_TOLERANCES = Tolerances(loss=2**-10, grad_norm=2**-6, gradients=2**-5, parameters=2**-6)
"""What tensor ranks and pipeline stages exchange is rounded to 8 bits, and Adam makes a full step
even for a small gradient whose sign depends on rounding. Only data ranks exchange fp32."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The results of one process, which layouts are compared with."""

    record: Record
    rounding: Rounding
    default_tolerances: Tolerances
    """The tolerances that fit the run's precision."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The largest relative differences of a layout from one process, as defined above."""

    loss: float
    grad_norm: float
    gradients: float
    parameters: float
    worst_gradient: str
    """The tensor whose first-step gradient differs most."""
    differing: tuple[str, ...]
    """Tensors whose first-step gradient is beyond the tolerance, in model order. If there are none:
    tensors whose parameters are."""

    def failures(self, tolerances: Tolerances) -> list[str]:
        """The names of the figures that are beyond their tolerance."""
        return [
            field.name
            for field in fields(tolerances)
            if not getattr(self, field.name) <= getattr(tolerances, field.name)
        ]


def default_tolerances(config: RunConfig) -> Tolerances:
    """The tolerances that fit the run's precision."""
    return BF16_TOLERANCES if config.train.precision == "bf16" else FP32_TOLERANCES


def parse_tolerances(text: str, base: Tolerances) -> Tolerances:
    """Reads tolerances such as ``loss=1e-5 parameters=1e-4``; the others stay as in ``base``.

    Raises:
        ConfigError: A word is not one of the four names with a number of at least zero.
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
                '"loss=1e-5 parameters=1e-4", for example'
            )
        values[name] = value
    return Tolerances(**values)


def compare_records(record: Record, reference: Reference, tolerances: Tolerances) -> Comparison:
    """Compares the record of a layout with that of one process.

    Raises:
        CompareError: They have different numbers of steps or different tensors, or a record is
            incomplete.
    """
    expected, rounding = reference.record, reference.rounding
    default = reference.default_tolerances
    if len(record.steps) != len(expected.steps):
        raise CompareError(
            f"{len(record.steps)} steps were taken, {len(expected.steps)} in one process"
        )
    gradients = distances(record, expected, GRADIENT)
    least = MIN_NORM_SHARE * _norm(distance.norm for distance in gradients.values())
    of_gradients = _relative(gradients, rounding.gradients, default.gradients, least=least)
    parameters = distances(record, expected, PARAMETER)
    together = _together(parameters, rounding.parameters, default.parameters)
    differing = _above(tolerances.gradients, of_gradients)
    if not differing and not together <= tolerances.parameters:
        of_parameters = _relative(parameters, rounding.parameters, default.parameters)
        differing = _above(tolerances.parameters, of_parameters)
    worst = max(of_gradients, key=lambda name: of_gradients[name])
    steps = list(zip(record.steps, expected.steps, strict=True))
    losses = [(ours.loss, theirs.loss) for ours, theirs in steps]
    norms = [(ours.grad_norm, theirs.grad_norm) for ours, theirs in steps]
    return Comparison(
        loss=_largest(losses, rounding.losses, default.loss),
        grad_norm=_largest(norms, rounding.grad_norms, default.grad_norm),
        gradients=of_gradients[worst],
        parameters=together,
        worst_gradient=worst,
        differing=differing,
    )


def _relative(
    differences: Mapping[str, Distance],
    rounding: Mapping[str, Distance],
    tolerance: float,
    *,
    least: float = 0.0,
) -> dict[str, float]:
    return {
        name: distance.relative(max(rounding[name].difference / tolerance, least))
        for name, distance in differences.items()
    }


def _together(
    parameters: Mapping[str, Distance], rounding: Mapping[str, Distance], tolerance: float
) -> float:
    """The relative difference of all parameters, taken as one vector.

    If rounding by itself could exceed the tolerance, the differences of the tensors that it changes
    are scaled down. Each tensor then has an equal share of the tolerance, and its difference is
    scaled down until its rounding is at most that share.
    """
    norm = _norm(distance.norm for distance in parameters.values())
    passes = tolerance * norm
    share = math.inf
    if _norm(rounding[name].difference for name in parameters) > passes:
        share = passes / math.sqrt(len(parameters))
    scales = {name: max(1.0, rounding[name].difference / share) for name in parameters}
    difference = _norm(each.difference / scales[name] for name, each in parameters.items())
    return Distance(difference, norm).relative()


def _above(tolerance: float, differences: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(name for name, difference in differences.items() if difference > tolerance)


def _largest(
    pairs: Iterable[tuple[float, float]], rounding: Sequence[Distance], tolerance: float
) -> float:
    return max(
        Distance(abs(ours - theirs), abs(theirs)).relative(explained.difference / tolerance)
        for (ours, theirs), explained in zip(pairs, rounding, strict=True)
    )


def _norm(norms: Iterable[float]) -> float:
    return math.sqrt(sum(norm**2 for norm in norms))
