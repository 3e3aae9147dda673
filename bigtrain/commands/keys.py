"""`bigtrain keys`: lists the keys of a run's config."""

from typing import Annotated

import typer


def keys(
    section: Annotated[
        str | None,
        typer.Argument(
            help="Section to list, such as parallel, or cluster for "
            "the keys of a cluster profile; by default all sections of a run."
        ),
    ] = None,
) -> None:
    """Lists every key of a run's config with its default and meaning, as YAML to copy from."""
    from bigtrain.config.keys import render_keys

    for line in render_keys(section):
        typer.echo(line)
