"""`bigtrain status`: the status of a run or of all runs, from a login node."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bigtrain.commands.arguments import RunsDir
from bigtrain.config.path_arguments import expanded

if TYPE_CHECKING:
    from bigtrain.commands.status_view import StatusView


def status(
    run: Annotated[
        str | None,
        typer.Argument(
            callback=expanded,
            help="A run folder, or the name of a run; without it all runs are listed.",
        ),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Compute goodput from all lines of a large metrics.jsonl, not a sample."
        ),
    ] = False,
) -> None:
    """Shows the state of a run: queue, step, loss, time left, checkpoint, restarts, goodput."""
    from bigtrain.commands.status_text import render_status
    from bigtrain.commands.status_view import as_json as view_as_json

    if run is None:
        _list(runs_dir, as_json=as_json)
        return
    from bigtrain.runs.run_list import find_run

    view = _look_at(find_run(run, runs_dir), exact=exact)
    if as_json:
        typer.echo(json.dumps(view_as_json(view), indent=1))
        return
    for line in render_status(view):
        typer.echo(line)


def _look_at(run_dir: Path, *, exact: bool) -> "StatusView":
    from bigtrain.commands.status_view import build_status_view
    from bigtrain.runs.run_status import read_run_status
    from launcher.slurm.queue import QueueAnswer, ask_queue

    run = read_run_status(run_dir, now=time.time(), exact=exact)
    is_slurm = run.record is not None and run.record.scheduler == "slurm"
    jobs = run.record.jobs[-10:] if run.record is not None and is_slurm else ()
    return build_status_view(run, ask_queue(jobs) if jobs else QueueAnswer())


def _list(runs_dir: Path, *, as_json: bool) -> None:
    from bigtrain.commands.run_table import list_views, render_list

    runs = list_views(runs_dir, now=time.time())
    if as_json:
        from bigtrain.commands.run_table import list_as_json

        typer.echo(json.dumps(list_as_json(runs), indent=1))
        return
    for line in render_list(runs, runs_dir):
        typer.echo(line)
