"""The commands `import-megatron` and `export-megatron`."""

from pathlib import Path
from typing import Annotated

import typer

from bigtrain.config.path_arguments import expanded
from data_tools.commands.corpus import CorpusFolder


def import_megatron(
    prefix: Annotated[
        Path,
        typer.Argument(callback=expanded, help="The path of the two files, without .bin and .idx."),
    ],
    tokenizer: Annotated[
        Path, typer.Option(callback=expanded, help="The tokenizer that made the ids.")
    ],
    out: Annotated[Path, typer.Option(callback=expanded, help="The corpus folder to make.")],
    sentences: Annotated[
        bool,
        typer.Option("--sentences", help="Every sequence is a sentence; record sentence starts."),
    ] = False,
    name: Annotated[str, typer.Option(help="Prefix of the tars' names.")] = "tokens",
    split: Annotated[str, typer.Option(help="Name of the split in the manifest.")] = "train",
    pack_tokens: Annotated[int, typer.Option(help="Tokens per pack.")] = 1_048_576,
    shard_tokens: Annotated[int, typer.Option(help="Tokens per tar.")] = 67_108_864,
) -> None:
    """Makes a corpus from Megatron-LM's .bin and .idx files."""
    from data_tools.convert_megatron import import_megatron

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
        f"{result.added_ends:,} documents, {result.cuts:,} cuts at an eos inside a document, "
        f"{result.empty:,} empty documents skipped"
    )


def export_megatron(
    corpus: CorpusFolder,
    prefix: Annotated[
        Path,
        typer.Argument(callback=expanded, help="The path of the two files, without .bin and .idx."),
    ],
    sentences: Annotated[
        bool, typer.Option("--sentences", help="Write one sequence per sentence, for BERT.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Writes a corpus as Megatron-LM's .bin and .idx files."""
    from data_tools.convert_megatron import export_megatron

    result = export_megatron(corpus, prefix, sentences=sentences, force=force)
    typer.echo(
        f"{result.bin}, {result.idx}: {result.documents:,} documents, "
        f"{result.sequences:,} sequences, {result.tokens:,} tokens"
    )
