"""Files that are whole or not there: a final name appears by a rename, after an fsync."""

import fcntl
import glob
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


def finish_file(part: Path, path: Path) -> None:
    """Makes a written temporary file durable, then gives it its final name."""
    _fsync(part)
    part.replace(path)
    _fsync(path.parent)


def write_file(path: Path, content: bytes) -> None:
    """Writes a small file atomically and durably, making its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_path(path)
    try:
        part.write_bytes(content)
    except OSError as error:  # A full disk does not say which file it was.
        part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    finish_file(part, path)


def remove_parts(folder: Path, *, prefix: str = "") -> None:
    """Removes what a killed process left half-written of files whose names begin with `prefix`."""
    for part in folder.glob(f".{glob.escape(prefix)}*{PART_SUFFIX}"):
        part.unlink(missing_ok=True)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds `folder` for one writing process; the lock ends with the process, however it ends.

    Raises:
        InputError: Another process is writing there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another process is writing to {folder}: wait for it, or write to another folder"
            ) from error
        yield


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
