"""From text to token tars: `tokenizer` and `shard`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Kind(StrEnum):
    """Which model SentencePiece trains."""

    bpe = "bpe"
    unigram = "unigram"


Inputs = Annotated[
    list[str], typer.Argument(help="Folders, globs (quote them) and files; one file, one document.")
]
Glob = Annotated[str, typer.Option(help="Which files of a folder are text.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="Leave out files whose path inside the folder matches, as '*/tests/*'."),
]


def tokenizer(
    inputs: Inputs,
    out: Annotated[Path, typer.Option(help="The model file to write.")],
    vocab_size: Annotated[int, typer.Option(help="Number of ids, special ones included.")] = 32_768,
    kind: Annotated[
        Kind, typer.Option(help="Only bpe exports exactly to transformers.")
    ] = Kind.bpe,
    glob: Glob = "**/*.txt",
    exclude: Exclude = None,
    max_mb: Annotated[
        float, typer.Option(help="The most text to train on, in MB, spread over all files.")
    ] = 100.0,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    force: Annotated[bool, typer.Option(help="Replace another model at --out.")] = False,
) -> None:
    """Trains a SentencePiece tokenizer on text files."""
    from data_tools.tokenizer.job import build_tokenizer

    result = build_tokenizer(
        inputs,
        out=out,
        vocab_size=vocab_size,
        kind=kind.value,
        folder_glob=glob,
        exclude=exclude or (),
        max_bytes=int(max_mb * 1e6),
        seed=seed,
        force=force,
    )
    done = "already trained" if result.already_done else "trained"
    typer.echo(
        f"{out}: {done} on {result.sample_bytes / 1e6:.1f} MB, "
        f"{result.tokenizer.vocab_size} ids, sha256 {result.tokenizer.sha256}"
    )


def shard(
    inputs: Inputs,
    tokenizer: Annotated[Path, typer.Option(help="The tokenizer model.")],
    out: Annotated[Path, typer.Option(help="Folder for train/ and validation/.")],
    name: Annotated[str, typer.Option(help="How the tars' names begin.")] = "tokens",
    glob: Glob = "**/*.txt",
    exclude: Exclude = None,
    validation_percent: Annotated[
        float, typer.Option(help="Share of documents for validation, in percent; 0 makes none.")
    ] = 0.0,
    workers: Annotated[int, typer.Option(help="Processes; the result is the same.")] = 1,
    task_mb: Annotated[
        float | None,
        typer.Option(help="Text per tar in MB.  [default: a 64th of the text, 4 to 256 MiB]"),
    ] = None,
    pack_tokens: Annotated[int, typer.Option(help="Tokens per pack.")] = 1_048_576,
    seed: Annotated[int, typer.Option(help="Chooses which documents are for validation.")] = 0,
) -> None:
    """Turns text files into token tars; run again after a crash, it goes on where it was."""
    from data_tools.sharding.job import shard_corpus

    result = shard_corpus(
        inputs,
        tokenizer=tokenizer,
        out=out,
        name=name,
        folder_glob=glob,
        exclude=exclude or (),
        validation_percent=validation_percent,
        workers=workers,
        task_bytes=None if task_mb is None else int(task_mb * 1e6),
        pack_tokens=pack_tokens,
        seed=seed,
    )
    how = "already done" if result.already_done else f"{result.tokens_per_second:,.0f} tokens/s"
    typer.echo(
        f"{', '.join(map(str, result.folders))}: {result.documents:,} documents, "
        f"{result.tokens:,} tokens of {result.bytes / 1e6:.1f} MB, "
        f"{result.skipped:,} files skipped (empty or not UTF-8), {how}"
    )
