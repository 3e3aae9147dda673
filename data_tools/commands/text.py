"""From text to token tars: `tokenizer`, `shard` and `seal`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bigtrain.config.arguments import expanded
from data_tools.commands.stopping import stop_when_interrupted

if TYPE_CHECKING:
    from data_tools.reading.documents import ReadOptions
    from data_tools.sharding.job import ArrayPart, ShardResult


class Kind(StrEnum):
    """Which model SentencePiece trains."""

    bpe = "bpe"
    unigram = "unigram"


class OnInvalid(StrEnum):
    """What becomes of invalid documents."""

    stop = "stop"
    skip = "skip"


Inputs = Annotated[
    list[str],
    typer.Argument(callback=expanded, help="Folders, globs (quote them), files and URLs of text."),
]
ShardInputs = Annotated[
    list[str],
    typer.Argument(
        callback=expanded, help="Folders, globs (quote them), files and URLs of text; or - alone."
    ),
]
Glob = Annotated[
    str | None,
    typer.Option(
        help="Which files of a folder count, as '*.md', at any depth.  [default: every known kind]"
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="Leave out files by path in a folder, as '*/tests/*'; repeat for more."),
]
TextField = Annotated[str, typer.Option(help="The JSON field or the column of the text.")]
Invalid = Annotated[
    OnInvalid,
    typer.Option(help="Invalid JSON, no text field, too long: stop, or skip it."),
]
MaxDocument = Annotated[
    float, typer.Option(help="The longest line of JSON or text file, in MiB; bounds memory.")
]


def tokenizer(
    inputs: Inputs,
    out: Annotated[Path, typer.Option(callback=expanded, help="The model file to write.")],
    vocab_size: Annotated[int, typer.Option(help="Number of ids, special ones included.")] = 32_768,
    kind: Annotated[
        Kind, typer.Option(help="bpe, or unigram, which is slower to train.")
    ] = Kind.bpe,
    glob: Glob = None,
    exclude: Exclude = None,
    text_field: TextField = "text",
    on_invalid: Invalid = OnInvalid.stop,
    max_document_mb: MaxDocument = 256.0,
    max_mb: Annotated[
        float, typer.Option(help="The most text to train on, in MB, spread over all files.")
    ] = 100.0,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    force: Annotated[bool, typer.Option(help="Replace another model at --out.")] = False,
) -> None:
    """Trains a SentencePiece tokenizer on text."""
    from data_tools.tokenizer.job import build_tokenizer

    result = build_tokenizer(
        inputs,
        out=out,
        vocab_size=vocab_size,
        kind=kind.value,
        folder_glob=glob,
        exclude=exclude or (),
        options=_reading(text_field, on_invalid, max_document_mb),
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
    inputs: ShardInputs,
    tokenizer: Annotated[
        Path, typer.Option(callback=expanded, help="A .model, or a tokenizer.json.")
    ],
    out: Annotated[
        Path, typer.Option(callback=expanded, help="Folder for train/ and validation/.")
    ],
    name: Annotated[str, typer.Option(help="How the tars' names begin.")] = "tokens",
    glob: Glob = None,
    exclude: Exclude = None,
    text_field: TextField = "text",
    on_invalid: Invalid = OnInvalid.stop,
    max_document_mb: MaxDocument = 256.0,
    validation_percent: Annotated[
        float, typer.Option(help="Share of documents for validation, in percent; 0 makes none.")
    ] = 0.0,
    shuffle: Annotated[bool, typer.Option(help="Puts the documents in an order by lot.")] = False,
    sentences: Annotated[bool, typer.Option(help="Also marks where sentences start.")] = False,
    workers: Annotated[int, typer.Option(help="Processes; the result is the same.")] = 1,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="One part of N from 0 on, then `seal`; in a SLURM array: "
            "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT.",
        ),
    ] = None,
    task_mb: Annotated[
        float | None,
        typer.Option(help="Input per tar in MB.  [default: a 64th of it, 4 to 256 MiB]"),
    ] = None,
    pack_tokens: Annotated[int, typer.Option(help="Tokens per pack.")] = 1_048_576,
    seed: Annotated[int, typer.Option(help="Chooses the validation split and the order.")] = 0,
) -> None:
    """Turns text into token tars; the same command goes on."""
    with stop_when_interrupted():
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
            reading=_reading(text_field, on_invalid, max_document_mb),
            shuffle=shuffle,
            sentences=sentences,
            part=_part(task),
        )
    how = "already done" if result.already_done else f"{result.tokens_per_second:,.0f} tokens/s"
    where = ", ".join(map(str, result.folders))
    if task is not None:
        where = f"{out}: {result.tasks} of {result.tasks_of_job} tars"
        how += f"; when all parts are done: bigtrain data seal {out}"
    typer.echo(f"{where}: {_summary(result)}, {how}")


def seal(
    out: Annotated[
        Path, typer.Argument(callback=expanded, help="The folder that `shard --task` wrote to.")
    ],
) -> None:
    """Checks that a `shard --task` job is whole, and ends it."""
    from data_tools.sharding.job import seal_corpus

    result = seal_corpus(out)
    how = "already sealed" if result.already_done else "sealed"
    typer.echo(f"{', '.join(map(str, result.folders))}: {_summary(result)}, {how}")


def _reading(text_field: str, on_invalid: OnInvalid, max_document_mb: float) -> "ReadOptions":
    from data_tools.reading.documents import ReadOptions

    return ReadOptions(
        text_field=text_field,
        on_invalid=on_invalid.value,
        max_document_bytes=int(max_document_mb * 2**20),
    )


def _part(task: str | None) -> "ArrayPart | None":
    from data_tools.errors import InputError
    from data_tools.sharding.job import ArrayPart

    if task is None:
        return None
    index, _, count = task.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
        raise InputError(f"--task {task!r} must be I/N, as 0/4: part 0 of 4")
    return ArrayPart(int(index), int(count))


def _summary(result: "ShardResult") -> str:
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in result.skipped_by_reason.items())
    splits = ", ".join(f"{n:,} {split}" for split, n in result.documents_of_split.items())
    return (
        f"{result.documents:,} documents ({splits}), {result.tokens:,} tokens "
        f"of {result.bytes / 1e6:.1f} MB, {result.skipped:,} skipped"
        + (f" ({reasons})" if reasons else "")
    )
