"""The results as a table: coloured on a terminal, aligned text elsewhere."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from bigtrain.config.layout import ONE_PROCESS
from bigtrain.parity.compare import Reference
from bigtrain.parity.distance import Distance
from bigtrain.parity.layout_runs import LayoutResult
from bigtrain.parity.rounding import Rounding

HEADER = ("layout", "ranks", "loss", "grad norm", "gradients", "parameters", "")
PASSED, DIFFERS, REFUSED, FAILED = "same", "DIFFERS", "refused", "FAILED"
_STYLES = {PASSED: "green", DIFFERS: "bold red", REFUSED: "dim", FAILED: "bold red"}


def verdict(row: LayoutResult) -> str:
    """Returns one word for the result of a layout."""
    if row.refusal is not None:
        return REFUSED
    if row.error is not None:
        return FAILED
    return DIFFERS if row.failures else PASSED


def cells(row: LayoutResult) -> list[str]:
    """Renders the cells of a row; ``!`` marks a figure that is not within its tolerance."""
    figures = ["–"] * 4
    if row.comparison is not None:
        names = ("loss", "grad_norm", "gradients", "parameters")
        figures = [_figure(getattr(row.comparison, n), fails=n in row.failures) for n in names]
    return [row.layout.name, str(row.layout.world_size), *figures, verdict(row)]


def render_plain(rows: Iterable[LayoutResult]) -> str:
    """Renders the table as aligned text, for a log or a file."""
    lines = [HEADER, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, len(HEADER) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def render_rich(rows: Iterable[LayoutResult]) -> Table:
    """Renders the table for a terminal."""
    table = Table(title=f"largest relative difference from {ONE_PROCESS}", title_justify="left")
    for column, name in enumerate(HEADER):
        right = 0 < column < len(HEADER) - 1
        table.add_column(name, justify="right" if right else "left", no_wrap=right)
    for row in rows:
        *values, word = cells(row)
        marked = (Text(value, style="bold red" if value.endswith("!") else "") for value in values)
        table.add_row(*marked, Text(word, style=_STYLES[word]))
    return table


def render_notes(rows: Sequence[LayoutResult]) -> list[str]:
    """Renders a line for each layout that failed, was refused or differs."""
    return [f"{row.layout.name}: {note}" for row in rows if (note := _note(row))]


def _note(row: LayoutResult) -> str | None:
    if row.refusal is not None or row.error is not None:
        return f"{verdict(row)}: {row.refusal or row.error}"
    if not row.failures or row.comparison is None:
        return None
    return f"{_describe_difference(row)} ({', '.join(row.failures)} beyond tolerance)"


def _describe_difference(row: LayoutResult) -> str:
    comparison = row.comparison
    assert comparison is not None
    if not comparison.differing:
        return (
            "first-step gradients and parameters agree; look at how the loss and the norm are "
            "summed over ranks"
        )
    first, *others = comparison.differing
    more = f" (and {len(others)} more, the last {others[-1]})" if others else ""
    if "gradients" in row.failures:
        return (
            f"first tensor to differ: {first}{more}; look at what computes its first-step "
            f"gradient: {comparison.worst_gradient} differs most, by {comparison.gradients:.1e}"
        )
    return (
        f"first tensor to differ: {first}{more}; first-step gradients agree, so look at clipping, "
        "the learning rate and the optimizer's step"
    )


def render_rounding(reference: Reference) -> list[str]:
    """Renders the figures that rounding changes by more than the default tolerance."""
    rounding, default = reference.rounding, reference.default_tolerances
    return [
        *_of_gradients(rounding, default.gradients),
        *_of_steps("loss", rounding.losses, default.loss),
        *_of_steps("gradient norm", rounding.grad_norms, default.grad_norm),
        *_of_parameters(rounding.parameters, default.parameters),
    ]


def _of_gradients(rounding: Rounding, tolerance: float) -> Iterator[str]:
    if only := rounding.rounding_only:
        yield (
            "rounding only, not compared to the tolerance: the first-step gradients of "
            f"{_names(only)}"
        )
    shares = {name: each.relative() for name, each in rounding.gradients.items()}
    partly = [name for name, share in shares.items() if share > tolerance and name not in only]
    if partly:
        worst = max(shares[name] for name in partly)
        yield (
            f"rounding explains up to {worst:.1e} of some first-step gradients, more than "
            f"{tolerance:.0e}: {_names(partly)}"
        )


def _of_steps(name: str, steps: Sequence[Distance], tolerance: float) -> Iterator[str]:
    shares = [step.relative() for step in steps]
    above = [number for number, share in enumerate(shares, start=1) if share > tolerance]
    if above:
        yield (
            f"rounding explains up to {max(shares):.1e} of the {name}, more than {tolerance:.0e} "
            f"from step {above[0]} on"
        )


def _of_parameters(parameters: Mapping[str, Distance], tolerance: float) -> Iterator[str]:
    together = Distance(
        difference=math.hypot(*(each.difference for each in parameters.values())),
        norm=math.hypot(*(each.norm for each in parameters.values())),
    ).relative()
    if together > tolerance:
        worst = max(parameters, key=lambda name: parameters[name].difference)
        yield (
            f"rounding explains up to {together:.1e} of all parameters, more than {tolerance:.0e} "
            "(Adam turns rounding-only gradients into full steps); differences in these tensors "
            f"are scaled down, most in {worst}"
        )


def _names(names: Sequence[str]) -> str:
    """Renders names without layer numbers, each with the number of tensors that share it."""
    kinds = Counter(re.sub(r"\blayers\.\d+\.", "layers.*.", name) for name in names)
    return ", ".join(f"{kind} ({count})" if "*" in kind else kind for kind, count in kinds.items())


def _figure(value: float, *, fails: bool) -> str:
    text = "0" if value == 0.0 else f"{value:.1e}"
    return f"{text}!" if fails else text
