"""Files that appear complete or not at all: written under a temporary name, synced, renamed."""

import glob
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from data_tools.errors import InputError

PART_SUFFIX = ".part"


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
    """Waits until a file, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def finish_file(part: Path, path: Path) -> None:
    """Gives a temporary file, once it is on the disk, its final name; waits for that name too."""
    sync_path(part)
    part.replace(path)
    sync_path(path.parent)


@contextmanager
def new_file(path: Path, *, buffering: int = -1) -> Iterator[IO[bytes]]:
    """Opens a file to write; it gets its name when the block ends, and is removed if that fails."""
    part = part_path(path)
    try:
        with part.open("wb", buffering=buffering) as file:
            yield file
        finish_file(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Writes a small file, or replaces it: after a crash there is the old file or the new one.

    Makes the folder if there is none.

    Raises:
        OSError: It cannot be written; the error names `path`, and the old file is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with new_file(path) as file:
            file.write(content)
    except OSError as error:  # The error of a full disk does not name the file.
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove_parts(folder: Path, *, prefix: str = "") -> None:
    """Removes what killed processes left unfinished of files whose names begin with `prefix`."""
    for part in folder.glob(f".{glob.escape(prefix)}*{PART_SUFFIX}"):
        part.unlink(missing_ok=True)
