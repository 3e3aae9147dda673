"""`bigtrain rewind`: takes a run back to a checkpoint."""

from typing import Annotated

import typer

from bigtrain.commands.arguments import Run


def rewind(
    run: Run,
    to: Annotated[int, typer.Option(help="Step of the checkpoint; 0 is the beginning.", min=0)],
    skip_steps: Annotated[
        str | None,
        typer.Option(metavar="A:B", help="Leave out what these steps read, both included."),
    ] = None,
    skip_samples: Annotated[
        str | None,
        typer.Option(metavar="FIRST:COUNT", help="Leave out samples, as `data which` counts."),
    ] = None,
) -> None:
    """Sets newer checkpoints aside, and notes samples that the run leaves out from there on."""
    from bigtrain.runs.rewind import render_rewound, rewind_run

    for line in render_rewound(
        rewind_run(run, to=to, skip_steps=skip_steps, skip_samples=skip_samples)
    ):
        typer.echo(line)
