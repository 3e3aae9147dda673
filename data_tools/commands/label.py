"""The command `label`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bigtrain.config.path_arguments import expanded
from data_tools.commands.interrupts import stop_when_interrupted
from data_tools.commands.text_options import OnInvalid

if TYPE_CHECKING:
    from data_tools.labels.build_label_table import LabelResult
    from data_tools.labels.label_table import LabelsManifest

Column = str | None
Inputs = Annotated[
    list[str],
    typer.Argument(
        callback=expanded,
        help="CSV, TSV, JSON Lines, Parquet and Arrow files, globs (quote them), URLs.",
    ),
]
Tokenizer = Annotated[
    Path,
    typer.Option(
        callback=expanded,
        help="A .model, a tokenizer.json, or the folder of a Hugging Face tokenizer.",
    ),
]
Out = Annotated[Path, typer.Option(callback=expanded, help="Folder for train/ and validation/.")]
Labels = Annotated[
    str | None,
    typer.Option(
        help="The classes in their order, such as no,yes; others are refused.  "
        "[default: those of the input, sorted]"
    ),
]
Messages = Annotated[
    Column,
    typer.Option(
        help="The column of chat messages, a list of {role, content}; the tokenizer's chat "
        "template renders them."
    ),
]
Invalid = Annotated[
    OnInvalid,
    typer.Option(
        help="Stop at, or skip: a row without text or label, another label, a longer row."
    ),
]
Quotes = Annotated[
    bool | None,
    typer.Option(
        help="Whether double quotes enclose fields.  [default: in CSV, not in TSV]",
        show_default=False,
    ),
]


def label(
    inputs: Inputs,
    tokenizer: Tokenizer,
    out: Out,
    text: Annotated[Column, typer.Option(help="The column of the text.")] = None,
    pair: Annotated[Column, typer.Option(help="The column of a second text.")] = None,
    label: Annotated[Column, typer.Option(help="The column of the class.")] = None,
    labels: Labels = None,
    prompt: Annotated[Column, typer.Option(help="The column of the prompt.")] = None,
    answer: Annotated[Column, typer.Option(help="The column of the answer.")] = None,
    messages: Messages = None,
    max_length: Annotated[
        int | None, typer.Option(help="The most tokens of a row, with special tokens.")
    ] = None,
    truncate: Annotated[bool, typer.Option(help="Cut longer rows, the longer text first.")] = False,
    on_invalid: Invalid = OnInvalid.stop,
    quotes: Quotes = None,
    validation_percent: Annotated[
        float, typer.Option(help="Percentage of rows for validation; 0 makes no split.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed for choosing the validation split.")] = 0,
) -> None:
    """Makes tables of labelled text, or of prompts with answers, for fine-tuning."""
    with stop_when_interrupted():
        from data_tools.labels.build_label_table import build_label_table
        from data_tools.labels.label_options import LabelOptions

        given = {"text": text, "pair": pair, "label": label}
        given |= {"prompt": prompt, "answer": answer, "messages": messages}
        options = LabelOptions(
            columns={role: column for role, column in given.items() if column is not None},
            labels=() if labels is None else tuple(name.strip() for name in labels.split(",")),
            max_length=max_length,
            truncate=truncate,
            on_invalid=on_invalid.value,
            validation_percent=validation_percent,
            seed=seed,
            quotes=quotes,
        )
        result = build_label_table(inputs, tokenizer=tokenizer, out=out, options=options)
    _report(result)


def _report(result: "LabelResult") -> None:
    from data_tools.labels.label_table import labels_fingerprint

    done = "already made" if result.already_done else f"made in {result.seconds:.1f} s"
    for split, manifest in result.manifests.items():
        typer.echo(
            f"{result.folder / split}: {done}, {manifest.num_rows:,} rows of up to "
            f"{manifest.longest:,} tokens, {_content(manifest)}, fingerprint "
            f"{labels_fingerprint(manifest)[:12]}"
        )
    first = next(iter(result.manifests.values()))
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in first.left_out.items())
    truncated = sum(manifest.truncated for manifest in result.manifests.values())
    typer.echo(f"rows left out: {left_out or 'none'}; rows cut: {truncated:,}")


def _content(manifest: "LabelsManifest") -> str:
    if manifest.kind == "answers":
        share = manifest.num_answer_tokens / manifest.num_tokens
        return f"{manifest.num_tokens:,} tokens, {share:.1%} of them answers"
    classes = ", ".join(f"{it.name!r} {it.rows:,}" for it in manifest.labels)
    return f"{manifest.num_tokens:,} tokens, classes {classes}"
