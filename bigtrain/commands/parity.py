"""`bigtrain parity` and the hidden `parity-rank`: compare layouts by a run's first steps."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bigtrain.commands.arguments import Sources
from bigtrain.commands.quiet_libraries import quiet_libraries

if TYPE_CHECKING:
    from bigtrain.parity.layout_runs import LayoutFailure


def parity(
    sources: Sources,
    layout: Annotated[
        list[str],
        typer.Option(
            help='Layout such as "tensor=2 data=2 zero=1"; may be repeated. Default: all that fit.'
        ),
    ] = [],  # noqa: B006
    steps: Annotated[int, typer.Option(help="Steps taken in each layout.", min=1)] = 5,
    tolerances: Annotated[
        str,
        typer.Option(help='Largest differences that pass, such as "loss=1e-5 parameters=1e-4".'),
    ] = "",
    max_ranks: Annotated[
        int, typer.Option(help="Maximum number of processes if --layout is not given.", min=2)
    ] = 4,
) -> None:
    """Takes a run's first steps in several layouts and compares each with one process.

    The effect of rounding is measured first, and reported if it exceeds the tolerance.
    """
    from bigtrain.commands.parity_plan import plan_parity, run_parity
    from bigtrain.config import load_run_config

    plan = plan_parity(
        load_run_config(sources),
        layouts=layout,
        steps=steps,
        tolerances=tolerances,
        most_ranks=max_ranks,
    )
    raise typer.Exit(0 if run_parity(plan, start=_start_ranks, echo=typer.echo) else 1)


def _start_ranks(
    config: Path, processes: int, folder: Path, *, steps: int, perturbed_runs: int = 0
) -> "LayoutFailure | None":
    from bigtrain.parity.layout_runs import LayoutFailure
    from launcher.local import LocalLaunch, run_local

    numbers = (f"--steps={steps}", f"--perturbed-runs={perturbed_runs}")
    words = ("parity-rank", str(config), "--folder", str(folder), *numbers)
    command = (sys.executable, "-m", "bigtrain.cli", *words)
    result = run_local(LocalLaunch(command, processes, folder, threads_per_process=1))
    if result.failure is not None:
        return LayoutFailure(result.failure.message, is_refusal=result.failure.exit_code == 2)
    if result.interrupted:
        raise typer.Exit(result.exit_code)
    return None


def parity_rank(
    config: Path,
    folder: Annotated[Path, typer.Option()],
    steps: Annotated[int, typer.Option()],
    perturbed_runs: Annotated[int, typer.Option()] = 0,
) -> None:
    """Takes the steps of one layout as one of its ranks; `bigtrain parity` starts all of them."""
    from bigtrain.config.config_files import load_resolved_config
    from bigtrain.environment import read_ranks

    run, ranks = load_resolved_config(config), read_ranks()
    quiet_libraries()
    from bigtrain.parallel.device_check import check_and_choose_device

    device = check_and_choose_device(run, ranks)
    from bigtrain.parity.measure import measure

    numbers = {"steps": steps, "perturbed_runs": perturbed_runs}
    measure(run, ranks=ranks, device=device, folder=folder, **numbers)
