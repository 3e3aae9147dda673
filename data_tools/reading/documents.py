"""The values of reading: input files and their pieces, options, documents and skipped documents."""

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
    """One file as it was when the job was planned."""

    path: str
    """An absolute local path, a URL for fsspec, or a command after `pipe:`."""
    name: str
    """Its path relative to the source's root, with slashes; the same wherever the source is."""
    bytes: int
    """Size on disk."""
    stamp: str
    """A time or hash that changes when the file changes."""
    detected: FileFormat | None = None
    """Its format by content, if its name does not tell it."""

    @property
    def format(self) -> FileFormat:
        """Its format; a file of no known kind is text."""
        by_name = self.detected or format_by_name(self.name)
        return by_name or FileFormat("text", compression_by_name(self.name))

    @property
    def kind(self) -> FileKind:
        """The kind of its uncompressed content."""
        return self.format.kind

    @property
    def compressed(self) -> bool:
        """Whether it is compressed, so that it can only be read from its beginning."""
        return self.format.compression is not None


@dataclass(frozen=True, slots=True)
class PatternMatch:
    """The files that one of the user's patterns names."""

    label: str
    files: tuple[tuple[str, InputFile], ...]
    """The files in order, each after its real path, which identifies it."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Where the text is in a record, and what to do with invalid records."""

    text_field: str = "text"
    """The JSON field or Parquet column that holds the text."""
    id_field: str | None = None
    """The field or column that holds the document's id, if any."""
    on_invalid: Literal["stop", "skip"] = "stop"
    """What to do with invalid JSON, a missing field, a document that is too long."""
    max_document_bytes: int = 256 * MIB
    """The longest line, text file or Parquet value; memory stays within a few times this."""
    are_keys: bool = False
    """Whether messages name these as keys of a config, not as options of a command."""

    def spell(self, name: str, value: str | None = None) -> str:
        """Writes an option as the user would: `--on-invalid skip`, or `on_invalid=skip`."""
        if self.are_keys:
            return name if value is None else f"{name}={value}"
        option = f"--{name.replace('_', '-')}"
        return option if value is None else f"{option} {value}"

    @property
    def too_long(self) -> str:
        """What is wrong with a document that is too long, and how to allow it."""
        fault = f"longer than {self.max_document_bytes / MIB:g} MiB"
        return fault if self.are_keys else f"{fault}: raise --max-document-mb"


@dataclass(frozen=True, slots=True)
class Document:
    """One text."""

    text: str
    place: str
    """Where it is from, as `web.jsonl line 17`; in pieces after the first, the byte offset."""
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A document that was left out."""

    reason: str
    """`empty`, `not UTF-8`, `invalid JSON`, `no text field`, `not a string`, `too long`; or another
    cause, as `.jpg in a tar`."""
    place: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one file that can be read by itself; a complete file is from 0 to None.

    `start` and `stop` are bytes of plain JSON Lines (the lines that begin there), row groups of
    Parquet, or record batches of an Arrow file.
    """

    file: InputFile
    start: int
    stop: int | None
    bytes: int
    """Its share of the file's size on disk."""


def refuse(options: ReadOptions, reason: str, *, place: str, message: str) -> Skipped:
    """Skips an invalid document, or stops.

    Raises:
        InputError: The options say to stop.
    """
    if options.on_invalid == "stop":
        remedy = options.spell("on_invalid", "skip")
        raise InputError(f"{message}; correct it, or leave such documents out with {remedy}")
    return Skipped(reason, place)
