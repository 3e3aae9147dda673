"""The options that are shared by the commands that read text."""

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


def read_options(text_field: str, on_invalid: OnInvalid, max_document_mb: float) -> "ReadOptions":
    """Makes the options of reading from those of a command."""
    from data_tools.reading.documents import ReadOptions

    return ReadOptions(
        text_field=text_field,
        on_invalid=on_invalid.value,
        max_document_bytes=int(max_document_mb * 2**20),
    )
