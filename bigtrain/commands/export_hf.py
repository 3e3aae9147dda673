"""`bigtrain export-hf`: writes a checkpoint as a Hugging Face folder and verifies it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bigtrain.commands.arguments import check_model_exists, parse_bytes
from bigtrain.commands.quiet_libraries import quiet_libraries
from bigtrain.config.path_arguments import expanded


class Precision(StrEnum):
    """The types of exported weights."""

    FP32 = "fp32"
    BF16 = "bf16"


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
    dtype: Annotated[
        Precision, typer.Option(help="Type of the weights in the files.")
    ] = Precision.FP32,
    max_shard_size: Annotated[
        str, typer.Option(help="Largest file of weights, such as 5GB or 500MB.")
    ] = "5GB",
) -> None:
    """Writes a checkpoint as a Hugging Face folder, and keeps it only if its outputs match."""
    shard_bytes = parse_bytes(max_shard_size, option="--max-shard-size")
    quiet_libraries()
    check_model_exists(checkpoint)
    from bigtrain.convert.export import export_hugging_face, render_export
    from bigtrain.convert.serve_commands import render_servers
    from bigtrain.runs.losses_of_step import losses_of_step

    done = export_hugging_face(
        checkpoint,
        out,
        texts=[path.read_text(encoding="utf-8") for path in text],
        precision=dtype.value,
        max_shard_bytes=shard_bytes,
        losses_of=lambda step: losses_of_step(checkpoint, step),
    )
    for line in (*render_export(done), *render_servers(done.folder)):
        typer.echo(line)
