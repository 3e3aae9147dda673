"""Detects the format of files by their content, if their names do not show it."""

from dataclasses import dataclass, replace

from data_tools.errors import InputError
from data_tools.reading.byte_streams import open_file, read_head
from data_tools.reading.documents import InputFile
from data_tools.reading.file_formats import (
    HEAD_BYTES,
    FileFormat,
    compression_by_content,
    compression_by_name,
    format_by_name,
    is_text_by_name,
    kind_by_content,
    unsupported_content,
)

_TEXT = "read as text, each file a document"
_READ_AS = {
    "text": _TEXT,
    "json lines": "read as JSON, by content",
    "parquet": "read as Parquet, by content",
    "arrow": "read as Arrow, by content",
    "tar": "read as webdataset tars, by content",
}


@dataclass(frozen=True, slots=True)
class DetectedFormat:
    """The format of a file, by its name or its content."""

    file: InputFile
    how: str | None = None
    """How the file is read, if its name does not show it."""
    unsupported: str | None = None
    """If the kind is not supported: what the file is, and what the user can do."""


def detect_format(file: InputFile) -> DetectedFormat:
    """Detects the format of a file: by its name, or else by its first bytes.

    If the first line is a complete JSON object, the file is JSON Lines; if it begins with an array
    of objects, it is JSON. Parquet, Arrow, tars and compressed files are recognized by their first
    bytes. Everything else is text.
    """
    if format_by_name(file.name):
        return DetectedFormat(file)
    if is_text_by_name(file.name):
        return DetectedFormat(file, how=_TEXT)
    try:
        raw_head = _raw_head(file)
        compression = compression_by_name(file.name) or compression_by_content(raw_head)
        seen = replace(file, detected=FileFormat("text", compression))
        head = read_head(seen, HEAD_BYTES) if compression else raw_head
    except InputError:  # The file is damaged, which is reported when it is read.
        return DetectedFormat(file, how=_TEXT)
    if unsupported := unsupported_content(head):
        return DetectedFormat(
            file, unsupported=f"{unsupported[0]}, which is not read: {unsupported[1]}"
        )
    kind = kind_by_content(head) or "text"
    known = FileFormat(kind, compression)
    return DetectedFormat(
        replace(file, detected=None if known == file.format else known), how=_READ_AS[kind]
    )


def _raw_head(file: InputFile) -> bytes:
    with open_file(file) as stream:
        return stream.read(HEAD_BYTES)
