"""`bigtrain stop`: saves, then ends a run."""

from pathlib import Path
from typing import Annotated

import typer

from bigtrain.commands.arguments import NamedRun, RunsDir


def stop(
    run: NamedRun,
    runs_dir: RunsDir = Path("runs"),
    wait: Annotated[bool, typer.Option("--wait", help="Return when the run has ended.")] = False,
) -> None:
    """Saves, then ends a run. A job that has not begun is cancelled."""
    from bigtrain.commands.run_control import stop_run, wait_until_stopped
    from bigtrain.runs.run_list import find_run

    folder = find_run(run, runs_dir)
    typer.echo(stop_run(folder))
    if not wait:
        return
    try:
        typer.echo(wait_until_stopped(folder, show=lambda line: typer.echo(line, err=True)))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None  # The request stays.
