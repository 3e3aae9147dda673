"""`bigtrain data which`: shows the documents of a step. Listed under `data`; reads a run folder."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bigtrain.config.path_arguments import expanded


def which(
    run: Annotated[
        Path, typer.Option(callback=expanded, help="A run folder, such as runs/gpt-tiny.")
    ],
    step: Annotated[int, typer.Option(help="The step; it may be in the future.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per sample, with all details.")
    ] = False,
) -> None:
    """Shows the samples of a step, and the documents they come from."""
    from dataclasses import asdict

    from bigtrain.runs.documents_of_step import find_samples, render_samples

    samples = find_samples(run, step)
    lines = (json.dumps(asdict(sample), ensure_ascii=False) for sample in samples)
    for line in lines if as_json else render_samples(samples):
        typer.echo(line)
