"""`bigtrain import-hf`: makes a checkpoint of a Hugging Face folder and verifies it."""

from pathlib import Path
from typing import Annotated

import typer

from bigtrain.checkpoint.hugging_face_folder import check_is_hugging_face_folder
from bigtrain.commands.quiet_libraries import quiet_libraries
from bigtrain.config.path_arguments import expanded


def import_hf(
    folder: Annotated[
        Path,
        typer.Argument(
            callback=expanded,
            help="Folder with config.json, safetensors and a tokenizer; no code in it is run.",
        ),
    ],
    out: Annotated[
        str, typer.Option(callback=expanded, help="New checkpoint; the folder must not exist.")
    ],
    tokenizer: Annotated[
        Path | None,
        typer.Option(callback=expanded, help="Tokenizer, if it is not the one in the folder."),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the initial values of heads that the folder lacks.", min=0)
    ] = 1,
) -> None:
    """Makes a checkpoint of a Hugging Face folder, and keeps it only if its outputs match.

    A run starts from it with checkpoint.load, in any layout; it holds weights and no moments.
    """
    check_is_hugging_face_folder(folder)
    quiet_libraries()
    from bigtrain.convert.import_hf import import_hugging_face, render_import

    done = import_hugging_face(folder, out, tokenizer_file=tokenizer, seed=seed)
    for line in render_import(done):
        typer.echo(line)
