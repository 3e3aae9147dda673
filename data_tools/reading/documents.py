"""What reading takes and gives: pieces of files in, documents and reasons for leaving some out."""

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
    """The same wherever the source lies: relative to the source's root, with slashes."""
    bytes: int
    """Size on disk."""
    stamp: str
    """Changes when the file changes."""
    known: FileFormat | None = None
    """What its content showed, where its name does not say."""

    @property
    def format(self) -> FileFormat:
        """What is in it; a file of no known kind is text."""
        by_name = self.known or format_by_name(self.name)
        return by_name or FileFormat("text", compression_by_name(self.name))

    @property
    def kind(self) -> FileKind:
        """What is in it, once it is unpacked."""
        return self.format.kind

    @property
    def compressed(self) -> bool:
        """Whether it can only be read from its beginning."""
        return self.format.compression is not None


@dataclass(frozen=True, slots=True)
class Finding:
    """What one pattern of the user names."""

    label: str
    files: tuple[tuple[str, InputFile], ...]
    """In order, each with what tells it from others: where it truly lies."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Where the text is, and what to do where there is none."""

    text_field: str = "text"
    """The JSON field or Parquet column that holds the text."""
    id_field: str | None = None
    """The one that names the document, if any."""
    on_invalid: Literal["stop", "skip"] = "stop"
    """Invalid JSON, no such field, too long: an error, or left out and counted."""
    max_document_bytes: int = 256 * MIB
    """The longest line, text file or Parquet value; memory stays within a few times this."""
    are_keys: bool = False
    """Whether who reads a message sets these as keys of a config, not as options of a command."""

    def spell(self, name: str, value: str | None = None) -> str:
        """Writes an option as its user does: `--on-invalid skip`, or `on_invalid=skip`."""
        if self.are_keys:
            return name if value is None else f"{name}={value}"
        option = f"--{name.replace('_', '-')}"
        return option if value is None else f"{option} {value}"

    @property
    def too_long(self) -> str:
        """What is wrong with a document that is longer than the longest, and how to let it in."""
        fault = f"longer than {self.max_document_bytes / MIB:g} MiB"
        return fault if self.are_keys else f"{fault}: raise --max-document-mb"


@dataclass(frozen=True, slots=True)
class Document:
    """One text."""

    text: str
    place: str
    """Where it came from, as `web.jsonl line 17`: the line, or the byte in a later piece."""
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A document that was left out."""

    reason: str
    """`empty`, `not UTF-8`, `invalid JSON`, `no text field`, `not a string`, `too long`; or what
    is in the way, as `.jpg in a tar`."""
    place: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one file that can be read by itself; a whole file is from 0 to None.

    `start` and `stop` are bytes of plain JSON Lines (the lines that begin there), row groups of
    Parquet, or record batches of an Arrow file.
    """

    file: InputFile
    start: int
    stop: int | None
    bytes: int
    """Its share of the file's size on disk."""


def refuse(options: ReadOptions, reason: str, *, place: str, message: str) -> Skipped:
    """Leaves out what cannot be used.

    Raises:
        InputError: The options say to stop.
    """
    if options.on_invalid == "stop":
        way_out = options.spell("on_invalid", "skip")
        raise InputError(f"{message}; mend it, or leave such documents out with {way_out}")
    return Skipped(reason, place)
