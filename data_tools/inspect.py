"""What is in a corpus, for a person to read: counts, the tokenizer, and a few documents as text."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from data_tools.corpus import open_corpus
from data_tools.errors import InputError
from data_tools.manifest import TOKENIZER_NAME, Manifest
from data_tools.tokenizer import load_tokenizer

_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class DocumentSample:
    """The beginning of one document."""

    num_tokens: int
    text: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """A corpus's manifest and its first documents, decoded."""

    folder: Path
    manifest: Manifest
    documents: tuple[DocumentSample, ...]


def inspect_corpus(
    folder: Path, *, documents: int = 3, characters: int = _CHARACTERS
) -> Inspection:
    """Opens a corpus and decodes its first documents, each cut to `characters`.

    Raises:
        InputError: The corpus is damaged, or the tokenizer beside it is not the one it was made by.
    """
    with open_corpus(folder) as corpus:
        tokenizer = load_tokenizer(folder / TOKENIZER_NAME)
        if tokenizer.sha256 != corpus.manifest.tokenizer.sha256:
            raise InputError(
                f"{folder / TOKENIZER_NAME} is not the tokenizer this corpus was made with: "
                "restore it from a good copy"
            )
        samples = tuple(
            DocumentSample(len(ids), tokenizer.decode(ids[: characters * 4])[:characters])
            for ids in corpus.documents(documents)
        )
        return Inspection(folder, corpus.manifest, samples)


def render_inspection(inspection: Inspection) -> RenderableType:
    """Makes what the terminal shows."""
    return Group(_render_facts(inspection), *_render_documents(inspection.documents))


def _render_facts(inspection: Inspection) -> Table:
    table = Table(title=str(inspection.folder), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _facts(inspection.manifest).items():
        table.add_row(name, Text(str(value)))
    return table


def _facts(manifest: Manifest) -> dict[str, Any]:
    special = manifest.tokenizer.special
    names = ("pad", "bos", "eos", "unk", "cls", "sep", "mask")
    return {
        "split": manifest.split,
        "tokens": f"{manifest.num_tokens:,}",
        "documents": f"{manifest.num_documents:,}",
        "tokens per document": f"{manifest.num_tokens / max(1, manifest.num_documents):,.1f}",
        "shards": f"{len(manifest.shards):,}",
        "packs": f"{manifest.totals.packs:,}",
        "bytes": f"{manifest.totals.bytes:,}",
        "token type": manifest.dtype,
        "vocabulary": f"{manifest.tokenizer.vocab_size:,}",
        "special ids": ", ".join(f"{name} {getattr(special, name)}" for name in names),
        "tokenizer": manifest.tokenizer.sha256,
        "fingerprint": manifest.fingerprint,
        "made by": f"bigtrain {manifest.tool_version}, seed {manifest.seed}",
        **{
            f"input {source.source}": f"{source.documents:,} documents, {source.bytes:,} bytes, "
            f"{source.skipped:,} skipped"
            for source in manifest.inputs
        },
    }


def _render_documents(documents: Iterable[DocumentSample]) -> list[Panel]:
    return [
        Panel(
            Text(document.text),
            title=f"document {number}, {document.num_tokens:,} tokens",
            title_align="left",
        )
        for number, document in enumerate(documents)
    ]
