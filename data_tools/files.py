"""Writes files so that they appear complete or not at all: temporary name, fsync, rename."""

import glob
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from data_tools.errors import InputError

PART_SUFFIX = ".part"
PRIVATE = 0o600
"""Permissions of a file that may hold secrets."""


def render_json(value: Any) -> bytes:
    """Makes canonical JSON: sorted keys, two-space indent, a newline at the end."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8")


def load_json(path: Path) -> Any:
    """Reads one JSON file.

    Raises:
        InputError: The file is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error}): restore it from a good copy") from error


def file_sha256(path: Path) -> str:
    """Hashes a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def part_path(path: Path) -> Path:
    """Names the temporary file of this process that will become `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}{PART_SUFFIX}")


def sync_path(path: Path) -> None:
    """Writes a file, or the names in a folder, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def finish_file(part: Path, path: Path) -> None:
    """Syncs a temporary file, renames it to its final name, and syncs the folder."""
    sync_path(part)
    part.replace(path)
    sync_path(path.parent)


@contextmanager
def new_file(path: Path, *, buffering: int = -1, mode: int | None = None) -> Iterator[IO[bytes]]:
    """Opens a temporary file; it becomes `path` when the block ends, or is removed on failure.

    Args:
        path: The file.
        buffering: As for `open`.
        mode: Its permissions, from the first byte on; by default those of the umask.
    """
    part = part_path(path)
    try:
        with part.open("wb", buffering=buffering) as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            yield file
        finish_file(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_file(
    path: Path, content: bytes, *, makes_folder: bool = True, mode: int | None = None
) -> None:
    """Writes or replaces a small file; after a crash, the old or the new file is there, complete.

    Args:
        path: The file.
        content: Its content.
        makes_folder: Whether to make the folder of the file if there is none.
        mode: Permissions of the file, such as ``PRIVATE``; by default those of the umask.

    Raises:
        OSError: The file cannot be written: an old file is unchanged, or already replaced if only
            its folder could not be synced.
    """
    if makes_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with new_file(path, mode=mode) as file:
            file.write(content)
    except OSError as error:  # The error of a full disk does not name the file.
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove_parts(folder: Path, *, prefix: str = "", min_age: float = 0.0) -> None:
    """Removes temporary files of killed processes.

    Args:
        folder: Where they are.
        prefix: What their final names begin with.
        min_age: Seconds since a file was written to; a younger one may be of a process that lives.
    """
    for part in folder.glob(f".{glob.escape(prefix)}*{PART_SUFFIX}"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime >= min_age:
                part.unlink()
