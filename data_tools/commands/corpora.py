"""What a corpus holds, whether it is whole, and Megatron's files to and from one."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bigtrain.config.arguments import expanded

CorpusFolder = Annotated[
    Path, typer.Argument(callback=expanded, help="A corpus folder, as corpora/wiki/train.")
]


class CheckLevel(StrEnum):
    """How closely a corpus is looked at."""

    header = "header"
    crc = "crc"
    full = "full"


def inspect(
    corpus: CorpusFolder,
    documents: Annotated[
        int, typer.Option(help="How many documents to show, spread over the corpus.")
    ] = 3,
    json: Annotated[bool, typer.Option("--json", help="JSON for machines instead.")] = False,
) -> None:
    """Shows what a corpus holds, and some documents."""
    from rich.console import Console

    from data_tools.inspect import inspect_corpus, render_inspection, render_inspection_json

    inspection = inspect_corpus(corpus, documents=documents)
    if json:
        typer.echo(render_inspection_json(inspection), nl=False)
    else:
        Console().print(render_inspection(inspection))


def verify(
    corpus: CorpusFolder,
    level: Annotated[
        CheckLevel,
        typer.Option(help="header: no payloads; crc: every pack; full: also each tar's sha256."),
    ] = CheckLevel.crc,
    workers: Annotated[int, typer.Option(help="Threads; each reads another tar.")] = 1,
) -> None:
    """Looks for every fault of a corpus, and changes nothing."""
    from data_tools.errors import InputError
    from data_tools.verify import render_verification, summarize_faults, verify_corpus

    result = verify_corpus(corpus, level.value, workers=workers)
    for line in render_verification(result):
        typer.echo(line)
    if result.faults:
        raise InputError(summarize_faults(result))


def index(
    corpus: CorpusFolder,
    everything: Annotated[
        bool, typer.Option("--all", help="Write those again too that are good.")
    ] = False,
) -> None:
    """Makes missing and stale indexes from the tars."""
    from data_tools.errors import InputError
    from data_tools.verify import rebuild_indexes

    report = rebuild_indexes(corpus, everything=everything)
    for line in (*(f"{name}: made again" for name in report.made), *report.refused):
        typer.echo(line)
    typer.echo(f"{corpus}: {len(report.made)} indexes made, {len(report.left)} good and left alone")
    if report.refused:
        raise InputError(
            f"{corpus}: {len(report.refused)} of its tars cannot be indexed: "
            "mend them as the lines above say"
        )


def import_megatron(
    prefix: Annotated[
        Path, typer.Argument(callback=expanded, help="The two files, without .bin and .idx.")
    ],
    tokenizer: Annotated[
        Path, typer.Option(callback=expanded, help="The tokenizer that made the ids.")
    ],
    out: Annotated[Path, typer.Option(callback=expanded, help="The corpus folder to make.")],
    sentences: Annotated[
        bool,
        typer.Option("--sentences", help="Every sequence is a sentence; keep where it starts."),
    ] = False,
    name: Annotated[str, typer.Option(help="How the tars' names begin.")] = "tokens",
    split: Annotated[str, typer.Option(help="What the manifest calls this part.")] = "train",
    pack_tokens: Annotated[int, typer.Option(help="Tokens per pack.")] = 1_048_576,
    shard_tokens: Annotated[int, typer.Option(help="Tokens per tar.")] = 67_108_864,
) -> None:
    """Makes a corpus of Megatron-LM's .bin and .idx files."""
    from data_tools.megatron import import_megatron

    result = import_megatron(
        prefix,
        out,
        tokenizer=tokenizer,
        sentences=sentences,
        name=name,
        split=split,
        pack_tokens=pack_tokens,
        shard_tokens=shard_tokens,
    )
    totals = result.manifest.totals
    typer.echo(
        f"{out}: {totals.docs:,} documents, {totals.tokens:,} tokens; eos added to "
        f"{result.added_ends:,} documents, {result.cuts:,} cut at an eos inside, "
        f"{result.empty:,} empty ones left out"
    )


def export_megatron(
    corpus: CorpusFolder,
    prefix: Annotated[
        Path, typer.Argument(callback=expanded, help="The two files to write, without endings.")
    ],
    sentences: Annotated[
        bool, typer.Option("--sentences", help="One sequence per sentence, for BERT.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Writes a corpus as Megatron-LM's .bin and .idx files."""
    from data_tools.megatron import export_megatron

    result = export_megatron(corpus, prefix, sentences=sentences, force=force)
    typer.echo(
        f"{result.bin}, {result.idx}: {result.documents:,} documents, "
        f"{result.sequences:,} sequences, {result.tokens:,} tokens"
    )
