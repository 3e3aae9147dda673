"""The options of all commands that read text."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from bigtrain.config.path_arguments import expanded

if TYPE_CHECKING:
    from data_tools.reading.documents import ReadOptions


class OnInvalid(StrEnum):
    """What to do with invalid documents."""

    stop = "stop"
    skip = "skip"


Inputs = Annotated[
    list[str],
    typer.Argument(callback=expanded, help="Folders, globs (quote them), files and URLs of text."),
]
Glob = Annotated[
    str | None,
    typer.Option(
        help="Which files of a folder to read, such as '*.md', at any depth.  "
        "[default: all known kinds]"
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        help="Exclude files by their path in a folder, such as '*/tests/*'; may be repeated."
    ),
]
TextField = Annotated[str, typer.Option(help="The JSON field or the column with the text.")]
Invalid = Annotated[
    OnInvalid,
    typer.Option(help="Stop at, or skip: invalid JSON, a missing text field, a too long document."),
]
MaxDocument = Annotated[
    float, typer.Option(help="The longest JSON line or text file, in MiB; limits memory.")
]


def read_options(text_field: str, on_invalid: OnInvalid, max_document_mb: float) -> "ReadOptions":
    """Makes the options for reading from the options of a command."""
    from data_tools.reading.documents import ReadOptions

    return ReadOptions(
        text_field=text_field,
        on_invalid=on_invalid.value,
        max_document_bytes=int(max_document_mb * 2**20),
    )
