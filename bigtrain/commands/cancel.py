"""`bigtrain cancel`: ends a run at once."""

from pathlib import Path

import typer

from bigtrain.commands.arguments import NamedRun, RunsDir


def cancel(run: NamedRun, runs_dir: RunsDir = Path("runs")) -> None:
    """Ends a run without waiting, and cancels its jobs; it is not queued again.

    A running job has a few seconds to save. On one machine, or over ssh, the run saves and ends.
    """
    from bigtrain.commands.run_control import cancel_run
    from bigtrain.runs.run_list import find_run

    typer.echo(cancel_run(find_run(run, runs_dir)))
