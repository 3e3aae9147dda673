"""What a corpus holds: `inspect`."""

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    corpus: Annotated[Path, typer.Argument(help="A corpus folder, as corpora/wiki/train.")],
    documents: Annotated[int, typer.Option(help="How many documents to show.")] = 3,
) -> None:
    """Shows what a corpus holds, and its first documents as text."""
    from rich.console import Console

    from data_tools.inspect import inspect_corpus, render_inspection

    Console().print(render_inspection(inspect_corpus(corpus, documents=documents)))
