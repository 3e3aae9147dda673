"""The commands `inspect`, `verify` and `index`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bigtrain.config.path_arguments import expanded

CorpusFolder = Annotated[
    Path, typer.Argument(callback=expanded, help="A corpus folder, such as corpora/wiki/train.")
]


class CheckLevel(StrEnum):
    """How thoroughly a corpus is checked."""

    header = "header"
    crc = "crc"
    full = "full"


def inspect(
    corpus: CorpusFolder,
    documents: Annotated[
        int, typer.Option(help="Number of documents to show, spread evenly over the corpus.")
    ] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """Shows the contents of a corpus, and some documents."""
    from rich.console import Console

    from data_tools.inspect_corpus import inspect_corpus, render_inspection, render_inspection_json

    inspection = inspect_corpus(corpus, documents=documents)
    if json:
        typer.echo(render_inspection_json(inspection), nl=False)
    else:
        Console().print(render_inspection(inspection))


def verify(
    corpus: CorpusFolder,
    level: Annotated[
        CheckLevel,
        typer.Option(help="header: not the packs; crc: every pack; full: also each tar's sha256."),
    ] = CheckLevel.crc,
    workers: Annotated[int, typer.Option(help="Threads; each reads one tar at a time.")] = 1,
) -> None:
    """Finds every fault of a corpus, and changes nothing."""
    from data_tools.errors import InputError
    from data_tools.verify_corpus import render_verification, summarize_faults, verify_corpus

    result = verify_corpus(corpus, level.value, workers=workers)
    for line in render_verification(result):
        typer.echo(line)
    if result.faults:
        raise InputError(summarize_faults(result))


def index(
    corpus: CorpusFolder,
    everything: Annotated[
        bool, typer.Option("--all", help="Also make up-to-date indexes again.")
    ] = False,
) -> None:
    """Makes missing and stale indexes again from the tars."""
    from data_tools.errors import InputError
    from data_tools.verify_corpus import rebuild_indexes

    report = rebuild_indexes(corpus, everything=everything)
    for line in (*(f"{name}: made again" for name in report.made), *report.refused):
        typer.echo(line)
    typer.echo(
        f"{corpus}: {len(report.made)} indexes made, {len(report.unchanged)} good and unchanged"
    )
    if report.refused:
        raise InputError(
            f"{corpus}: {len(report.refused)} of its tars cannot be indexed: "
            "repair them as the lines above say"
        )
