"""The command `tokenizer`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bigtrain.config.path_arguments import expanded
from data_tools.commands.text_options import (
    Exclude,
    Glob,
    Inputs,
    Invalid,
    MaxDocument,
    OnInvalid,
    TextField,
    read_options,
)


class Kind(StrEnum):
    """The kind of model that SentencePiece trains."""

    bpe = "bpe"
    unigram = "unigram"


def tokenizer(
    inputs: Inputs,
    out: Annotated[Path, typer.Option(callback=expanded, help="The model file to write.")],
    vocab_size: Annotated[int, typer.Option(help="Number of ids, including special ids.")] = 32_768,
    kind: Annotated[Kind, typer.Option(help="bpe, or unigram (slower to train).")] = Kind.bpe,
    glob: Glob = None,
    exclude: Exclude = None,
    text_field: TextField = "text",
    on_invalid: Invalid = OnInvalid.stop,
    max_document_mb: MaxDocument = 256.0,
    max_mb: Annotated[
        float, typer.Option(help="Maximum text to train on, in MB, spread over all files.")
    ] = 100.0,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    force: Annotated[bool, typer.Option(help="Replace another model at --out.")] = False,
) -> None:
    """Trains a SentencePiece tokenizer on text."""
    from data_tools.tokenizer.build_tokenizer import build_tokenizer

    result = build_tokenizer(
        inputs,
        out=out,
        vocab_size=vocab_size,
        kind=kind.value,
        folder_glob=glob,
        exclude=exclude or (),
        options=read_options(text_field, on_invalid, max_document_mb),
        max_bytes=int(max_mb * 1e6),
        seed=seed,
        force=force,
    )
    done = "already trained" if result.already_done else "trained"
    typer.echo(
        f"{out}: {done} on {result.sample_bytes / 1e6:.1f} MB, "
        f"{result.tokenizer.vocab_size} ids, sha256 {result.tokenizer.sha256}"
    )
