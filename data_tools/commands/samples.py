"""The command `samples`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bigtrain.config.path_arguments import expanded


class Mode(StrEnum):
    """How tokens become samples."""

    bestfit = "bestfit"
    pad = "pad"
    pairs = "pairs"


def samples(
    corpus: Annotated[
        Path, typer.Argument(callback=expanded, help="A corpus folder, such as corpora/wiki/train.")
    ],
    mode: Annotated[
        Mode,
        typer.Option(help="Packed documents, one document per sample, or BERT's sentence pairs."),
    ],
    sequence_length: Annotated[int, typer.Option(help="Tokens of a sample.")],
    seed: Annotated[int, typer.Option(help="Seed for choosing pairs.")] = 0,
    copies: Annotated[
        int, typer.Option(help="How many times each document is cut into pairs.")
    ] = 1,
    short_probability: Annotated[
        float,
        typer.Option(help="Probability that pairs of a document are shorter than possible."),
    ] = 0.1,
) -> None:
    """Makes a table of the samples of a corpus, which training reads."""
    from data_tools.samples.build_sample_table import build_sample_table

    result = build_sample_table(
        corpus,
        mode=mode.value,
        sequence_length=sequence_length,
        seed=seed,
        copies=copies,
        short_probability=short_probability,
    )
    done = "already made" if result.already_done else f"made in {result.seconds:.1f} s"
    facts = result.manifest.statistics
    if mode is Mode.pairs:
        quality = f"{facts['random_fraction']:.1%} random, {facts['padding']:.1%} padding"
    else:
        quality = f"{facts['utilisation']:.1%} of every row filled"
    typer.echo(
        f"{result.folder}: {done}, {result.manifest.num_samples:,} samples of up to "
        f"{sequence_length:,} tokens, {facts['tokens']:,} tokens, {quality}, "
        f"fingerprint {result.fingerprint[:12]}"
    )
