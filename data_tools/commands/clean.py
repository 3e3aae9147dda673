"""The command `clean`."""

from typing import Annotated

import typer

from data_tools.commands.interrupts import stop_when_interrupted


def clean(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG.yaml... [KEY=VALUE...]",
            help="YAML files, merged left to right, then overrides such as length.min_words=20.",
        ),
    ],
) -> None:
    """Drops documents of low quality and duplicates, and counts them by rule."""
    with stop_when_interrupted():
        from rich.console import Console

        from bigtrain.config import load_config
        from data_tools.cleaning.clean_config import CleanConfig
        from data_tools.cleaning.clean_corpus import clean_corpus
        from data_tools.cleaning.clean_report import render_report

        result = clean_corpus(load_config(sources, CleanConfig))
    Console().print(render_report(result.counts))
    rate = result.input_bytes / 1e6 / result.seconds
    how = "already done" if result.already_done else f"{rate:,.1f} MB/s"
    typer.echo(
        f"{result.out}: {result.counts.kept:,} of {result.counts.documents:,} documents kept, "
        f"in {result.parts:,} parts beside report.json, {how}"
    )
