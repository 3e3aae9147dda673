"""Standard input as a source: copied to a temporary file, because it can be read only once."""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from data_tools.errors import InputError
from data_tools.reading.byte_streams import DECOMPRESS_COMMANDS
from data_tools.reading.documents import InputFile
from data_tools.reading.file_formats import (
    compression_by_content,
    kind_by_content,
    unsupported_content,
)
from data_tools.reading.text_sources import TextSource

_BLOCK_BYTES = 1 << 20
_LABEL = "standard input"
_NAME = "stdin.jsonl"


@contextmanager
def standard_input(
    folder: Path, stream: IO[bytes] | None = None
) -> Iterator[tuple[TextSource, str]]:
    """Copies JSON Lines from standard input to a file in `folder`, and removes it at the end.

    Args:
        folder: The folder of the copy.
        stream: The stream to read; by default standard input.

    Yields:
        The source, and the sha256 of its content.

    Raises:
        InputError: The stream is compressed, or not JSON Lines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stream, path, digest = stream or sys.stdin.buffer, _path(folder, os.getpid()), hashlib.sha256()
    try:
        with path.open("wb") as copy:
            while block := stream.read(_BLOCK_BYTES):
                if not copy.tell():
                    _check_plain(block)
                digest.update(block)
                copy.write(block)
        stat = path.stat()
        found = InputFile(str(path.absolute()), _NAME, stat.st_size, str(stat.st_mtime_ns))
        yield TextSource(_LABEL, (found,)), digest.hexdigest()
    finally:
        path.unlink(missing_ok=True)


def _check_plain(block: bytes) -> None:
    if compression := compression_by_content(block):
        tool = DECOMPRESS_COMMANDS[compression]
        raise InputError(
            f"standard input is compressed: decompress it first ({tool}c FILE | …), "
            "or give the file itself"
        )
    kind = kind_by_content(block) or "json lines"
    if unsupported := unsupported_content(block):
        raise InputError(f"standard input is {unsupported[0]}, not JSON Lines: {unsupported[1]}")
    if kind != "json lines":
        raise InputError(f"standard input is {kind}, not JSON Lines: give the file itself")


def remove_stale_input(folder: Path) -> None:
    """Removes copies of killed processes from `folder`; call it inside `only_writer`."""
    for path in folder.glob(f"*-{_NAME}"):
        if path != _path(folder, os.getpid()):
            path.unlink(missing_ok=True)


def _path(folder: Path, process: int) -> Path:
    return folder / f"{process}-{_NAME}"
