"""Data classes of the readers: input files and their pieces, options, documents."""

from dataclasses import dataclass
from typing import Literal

from data_tools.errors import InputError
from data_tools.reading.file_formats import (
    FileFormat,
    FileKind,
    compression_by_name,
    format_by_name,
)

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file, in the state in which the job found it."""

    path: str
    """An absolute local path, a URL for fsspec, or a command after `pipe:`."""
    name: str
    """The path relative to the source's root, with slashes; the same on every machine."""
    bytes: int
    """Size on disk."""
    stamp: str
    """A time or hash that changes when the file changes."""
    detected: FileFormat | None = None
    """The format by content, if the name does not show the format."""

    @property
    def format(self) -> FileFormat:
        """The format of the file; a file of unknown kind is text."""
        by_name = self.detected or format_by_name(self.name)
        return by_name or FileFormat("text", compression_by_name(self.name))

    @property
    def kind(self) -> FileKind:
        """The kind of the decompressed content."""
        return self.format.kind

    @property
    def compressed(self) -> bool:
        """Whether the file is compressed, so that it can only be read from its beginning."""
        return self.format.compression is not None


@dataclass(frozen=True, slots=True)
class PatternMatch:
    """The files that one of the user's patterns matches."""

    label: str
    files: tuple[tuple[str, InputFile], ...]
    """Pairs of real path, which identifies a file, and file, in order."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Where the text is in a record, and what to do with invalid records."""

    text_field: str = "text"
    """The JSON field or the column with the text."""
    id_field: str | None = None
    """The field or column with the document's id, if any."""
    on_invalid: Literal["stop", "skip"] = "stop"
    """What to do with invalid JSON, a missing field, a document that is too long."""
    max_document_bytes: int = 256 * MIB
    """The longest line, text file or value; memory stays within a few times this."""
    are_keys: bool = False
    """Whether messages name these options as keys of a config, not as options of a command."""

    def spell(self, name: str, value: str | None = None) -> str:
        """An option as the user writes it: `--on-invalid skip`, or `on_invalid=skip`."""
        if self.are_keys:
            return name if value is None else f"{name}={value}"
        option = f"--{name.replace('_', '-')}"
        return option if value is None else f"{option} {value}"

    @property
    def too_long(self) -> str:
        """The part of an error message about a document that is too long, with the remedy."""
        fault = f"longer than {self.max_document_bytes / MIB:g} MiB"
        return fault if self.are_keys else f"{fault}: raise --max-document-mb"


@dataclass(frozen=True, slots=True)
class Document:
    """One text."""

    text: str
    place: str
    """Where it is in the input: `web.jsonl line 17`, or a byte offset in pieces after the first."""
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A document that was left out."""

    reason: str
    """`empty`, `not UTF-8`, `invalid JSON`, `no text field`, `not a string`, `too long`, or another
    cause, such as `.jpg in a tar`."""
    place: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one file that can be read separately; a complete file is from 0 to None.

    `start` and `stop` are bytes of plain JSON Lines (a piece is the lines that begin between them),
    row groups of Parquet, or record batches of an Arrow file.
    """

    file: InputFile
    start: int
    stop: int | None
    bytes: int
    """The part of the file's size on disk that it accounts for."""


def refuse(options: ReadOptions, reason: str, *, place: str, message: str) -> Skipped:
    """Skips an invalid document, or raises an error.

    Raises:
        InputError: `options.on_invalid` is `stop`.
    """
    if options.on_invalid == "stop":
        remedy = options.spell("on_invalid", "skip")
        raise InputError(f"{message}; correct it, or leave such documents out with {remedy}")
    return Skipped(reason, place)
