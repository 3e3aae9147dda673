"""`bigtrain logs`: shows the output of a run, and follows it across attempts and jobs."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bigtrain.commands.arguments import NamedRun, RunsDir

if TYPE_CHECKING:
    from bigtrain.runs.run_logs import Stream

_POLL_SECONDS = 0.5


def logs(
    run: NamedRun,
    runs_dir: RunsDir = Path("runs"),
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show new lines as they come, until Ctrl-C.")
    ] = False,
    rank: Annotated[int | None, typer.Option(help="Only the output of this rank.", min=0)] = None,
    node: Annotated[
        str | None, typer.Option(help="Only the output of the ranks on this node.")
    ] = None,
    lines: Annotated[
        int, typer.Option("--lines", "-n", help="How many of the last lines to show.", min=0)
    ] = 40,
) -> None:
    """Shows the last lines of a run's output: of rank 0 and the supervisor, a rank, or a node."""
    from bigtrain.runs.run_list import find_run
    from bigtrain.runs.run_logs import NoLogError, find_streams

    folder = find_run(run, runs_dir)
    if rank is not None and node is not None:
        raise NoLogError("give either --rank or --node, not both")

    def find() -> "Sequence[Stream]":
        return find_streams(folder, rank=rank, node=node)

    try:
        _show(folder, find, lines=lines, follow=follow)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:  # Such as `bigtrain logs RUN | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def _show(
    folder: Path, find: "Callable[[], Sequence[Stream]]", *, lines: int, follow: bool
) -> None:
    from bigtrain.runs.run_logs import Follower, NoLogError, read_tail

    streams = find()
    if not any(file.exists() for stream in streams for file in stream.files):
        places = _name_files(streams)
        if not follow:
            raise NoLogError(f"{folder}: no output yet in {places}")
        typer.echo(f"{folder}: no output yet in {places}; waiting for it", err=True)
    follower = Follower(find)
    follower.begin(folder / "logs")
    tails = [(stream.label, line) for stream in streams for line in read_tail(stream.files, lines)]
    _write(tails)
    if not tails and lines and not follow:
        typer.echo(f"{folder}: nothing was written yet into {_name_files(streams)}", err=True)
    while follow:
        time.sleep(_POLL_SECONDS)
        try:
            _write(follower.read_new())
        except NoLogError:
            continue  # Between two attempts a node may have no ranks.


def _name_files(streams: "Sequence[Stream]") -> str:
    return ", ".join(str(stream.files[-1]) for stream in streams)


def _write(lines: Iterable[tuple[str, str]]) -> None:
    for label, line in lines:
        typer.echo(f"{label}: {line}" if label else line)
