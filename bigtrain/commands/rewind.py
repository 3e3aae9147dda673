"""`bigtrain rewind`: sets a run back to a checkpoint."""

from typing import Annotated

import typer

from bigtrain.commands.arguments import Run


def rewind(
    run: Run,
    to: Annotated[int, typer.Option(help="Step of the checkpoint; 0 is the beginning.", min=0)],
    skip_steps: Annotated[
        str | None,
        typer.Option(metavar="A:B", help="Skip the samples of steps A to B, both included."),
    ] = None,
    skip_samples: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST:COUNT", help="Skip COUNT samples, numbered as `data which` shows."
        ),
    ] = None,
) -> None:
    """Sets newer checkpoints aside, and records the samples that the run will skip."""
    from bigtrain.runs.rewind import render_rewind, rewind_run

    for line in render_rewind(
        rewind_run(run, to=to, skip_steps=skip_steps, skip_samples=skip_samples)
    ):
        typer.echo(line)
