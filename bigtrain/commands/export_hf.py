"""`bigtrain export-hf`: writes a checkpoint as a Hugging Face folder and verifies it."""

from pathlib import Path
from typing import Annotated

import typer

from bigtrain.commands.arguments import check_model_exists
from bigtrain.commands.quiet_libraries import quiet_libraries
from bigtrain.config.path_arguments import expanded


def export_hf(
    checkpoint: Annotated[
        str,
        typer.Argument(
            callback=expanded, help="A checkpoint, or a run folder (its newest one); may be a URL."
        ),
    ],
    out: Annotated[str, typer.Argument(callback=expanded, help="New folder; must not exist.")],
    text: Annotated[
        list[Path],
        typer.Option(
            callback=expanded,
            help="Text file to compare on, besides the validation corpus; may be repeated.",
        ),
    ] = [],  # noqa: B006
) -> None:
    """Writes a checkpoint as a Hugging Face folder, and keeps it only if its outputs match."""
    quiet_libraries()
    check_model_exists(checkpoint)
    from bigtrain.convert.export import export_hugging_face, render_export
    from bigtrain.convert.serve_commands import render_servers

    texts = [path.read_text(encoding="utf-8") for path in text]
    done = export_hugging_face(checkpoint, out, texts=texts)
    for line in (*render_export(done), *render_servers(done.folder)):
        typer.echo(line)
