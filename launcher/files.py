"""Replaces small files so that a reader finds the old or the new content, never a part of it."""

import os
from contextlib import suppress
from itertools import count
from pathlib import Path

_numbers = count(1)  # Two threads of this process may replace the same file at the same time.


def replace_file(path: Path, text: str) -> None:
    """Writes or replaces a text file: temporary name, fsync, rename.

    Raises:
        OSError: The file cannot be written; an old file is unchanged.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:  # The error of a full disk does not name the file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
