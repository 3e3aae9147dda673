"""`bigtrain parity`: plans which layouts to compare, runs them, and shows the table.

No torch: ranks are separate processes, and the caller passes the function that starts them.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from rich.console import Console

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.layout import ONE_PROCESS, Layout, config_in_layout
from bigtrain.data.corpus_checks import check_data
from bigtrain.parallel.device_check import check_device
from bigtrain.parity.compare import Reference, Tolerances, default_tolerances, parse_tolerances
from bigtrain.parity.layout_runs import (
    LayoutFailure,
    LayoutResult,
    ParityError,
    compare_layouts,
    measure_one_process,
)
from bigtrain.parity.layouts import layouts_to_compare, own_layout, parse_layouts
from bigtrain.parity.result_table import render_notes, render_plain, render_rich, render_rounding


class StartSteps(Protocol):
    """As `StartRanks`, with the number of steps."""

    def __call__(
        self, config: Path, processes: int, folder: Path, *, steps: int, perturbed_runs: int = 0
    ) -> LayoutFailure | None:
        """Runs the ranks of a layout until they end."""


@dataclass(frozen=True, slots=True)
class ParityPlan:
    """Which layouts are compared, over how many steps, and with which tolerances."""

    config: RunConfig
    layouts: list[Layout]
    steps: int
    tolerances: Tolerances
    left_out: Layout | None
    """The config's own layout, if it needs more processes than `most_ranks`."""


def plan_parity(
    config: RunConfig, *, layouts: Sequence[str], steps: int, tolerances: str, most_ranks: int
) -> ParityPlan:
    """Checks the request and the data before anything starts.

    Args:
        config: The run's config.
        layouts: Layouts such as "tensor=2 data=2"; if empty, the standard layouts that fit.
        steps: Number of steps taken in each layout.
        tolerances: Tolerances that differ from the defaults.
        most_ranks: Maximum number of ranks of a standard layout.

    Raises:
        ConfigError: The request does not fit the config; one line.
        InputError: A corpus or the tokenizer cannot be read.
    """
    own = own_layout(config)
    plan = ParityPlan(
        config=config,
        layouts=parse_layouts(layouts) or layouts_to_compare(config, most_ranks=most_ranks),
        steps=steps,
        tolerances=parse_tolerances(tolerances, default_tolerances(config)),
        left_out=own if not layouts and own.world_size > most_ranks else None,
    )
    if steps > config.train.steps:
        raise ConfigError(
            f"--steps={steps} is more than train.steps={config.train.steps}; lower it or add "
            f"train.steps={steps}"
        )
    config_in_layout(config, Layout())
    check_data(config)
    check_device(config)
    return plan


def run_parity(plan: ParityPlan, *, start: StartSteps, echo: Callable[..., None]) -> bool:
    """Runs the plan, prints which layout is running, and prints the table.

    Args:
        plan: From `plan_parity`.
        start: Runs the ranks of a layout.
        echo: Writes a line; ``err=True`` writes it to stderr.

    Returns:
        Whether every layout that the config allows gave the numbers of one process.
    """
    if plan.config.model.dropout > 0:
        echo(
            f"model.dropout={plan.config.model.dropout:g}: each rank drops other values, so "
            "layouts differ; add model.dropout=0 to compare everything else",
            err=True,
        )
    if plan.left_out is not None:
        echo(
            f"the run's own layout ({plan.left_out.name}) needs {plan.left_out.world_size} "
            f"processes; add --max-ranks {plan.left_out.world_size} to compare it",
            err=True,
        )
    folder = Path(tempfile.mkdtemp(prefix="bigtrain-parity-"))
    keep_logs = False
    try:
        reference, rows = _measure(plan, start=start, folder=folder, echo=echo)
        keep_logs = any(row.error for row in rows)
    except ParityError:
        keep_logs = True
        raise
    finally:
        _clean(folder, keep_logs=keep_logs, echo=echo)
    _print_table(rows, reference, echo)
    return all(row.is_acceptable for row in rows) and any(row.comparison for row in rows)


def _measure(
    plan: ParityPlan, *, start: StartSteps, folder: Path, echo: Callable[..., None]
) -> tuple[Reference, list[LayoutResult]]:
    start_ranks = partial(start, steps=plan.steps)
    report = partial(echo, err=True)
    report(f"{ONE_PROCESS}, which {len(plan.layouts)} layouts are compared with")
    reference = measure_one_process(plan.config, folder=folder / "alone", start=start_ranks)
    rows = compare_layouts(
        plan.config,
        plan.layouts,
        reference=reference,
        tolerances=plan.tolerances,
        folder=folder,
        start=start_ranks,
        report_progress=report,
    )
    return reference, list(rows)


def _clean(folder: Path, *, keep_logs: bool, echo: Callable[..., None]) -> None:
    if not keep_logs:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for boxes in folder.rglob("*.bin"):
        boxes.unlink()
    echo(f"logs of the failed layouts: {folder}", err=True)


def _print_table(rows: list[LayoutResult], reference: Reference, echo: Callable[..., None]) -> None:
    console = Console()
    if console.is_terminal:
        console.print(render_rich(rows))
    else:
        echo(render_plain(rows))
    for note in (*render_notes(rows), *render_rounding(reference)):
        echo(note)
    if not any(row.comparison for row in rows):
        echo("no layout could be compared; give another one with --layout")
