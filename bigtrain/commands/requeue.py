"""`bigtrain requeue`: puts a run into the queue again."""

from pathlib import Path

import typer

from bigtrain.commands.arguments import NamedRun, RunsDir


def requeue(run: NamedRun, runs_dir: RunsDir = Path("runs")) -> None:
    """Puts a run into the queue again: one that was stopped, held, failed or lost.

    A held job is released. A running job saves first.
    """
    from bigtrain.commands.run_control import requeue_run
    from bigtrain.runs.run_list import find_run

    typer.echo(requeue_run(find_run(run, runs_dir)))
