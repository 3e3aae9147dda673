"""Object stores through fsspec: opening, reading ahead, errors as ``OSError``. No torch."""

import errno
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

REQUEST_BYTES = 8 * 2**20
"""The size of one request, while a file is read from front to back."""
_FIRST_AHEAD = REQUEST_BYTES // 2
_MOST_AHEAD = 4 * REQUEST_BYTES
_SMALL_GAP = REQUEST_BYTES // 8


class FileToRead(ABC):
    """A file to read at offsets; as a context manager, it is closed at the end."""

    @abstractmethod
    def read_into(self, start: int, buffer: memoryview) -> int:
        """Fills ``buffer`` from byte ``start`` on; returns how many bytes there were."""

    @abstractmethod
    def close(self) -> None:
        """Closes the file."""

    def __enter__(self) -> "FileToRead":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ReadAhead(FileToRead):
    """A file of a store that is read mostly from front to back, with some gaps.

    It requests more than it needs: a few large requests at the same time are faster than many
    small ones.
    """

    def __init__(self, system: Any, path: str, *, size: int, place: str) -> None:
        """Reads nothing yet.

        Args:
            system: The fsspec file system.
            path: The file in it.
            size: The file's size in bytes.
            place: The file's name in errors.
        """
        self._system, self._path, self._size, self._place = system, path, size, place
        self._start, self._data, self._ahead = 0, b"", 0
        self._lock = threading.Lock()

    def read_into(self, start: int, buffer: memoryview) -> int:
        """Fills ``buffer`` from byte ``start`` on; returns how many bytes there were.

        Raises:
            OSError: The store cannot read them.
        """
        stop = min(start + len(buffer), self._size)
        with self._lock:
            if start < stop and not self._start <= start <= stop <= self._end:
                self._move(start, stop)
            part = memoryview(self._data)[start - self._start : stop - self._start]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        """Frees what was read."""
        with self._lock:
            self._data = b""

    @property
    def _end(self) -> int:
        return self._start + len(self._data)

    def _move(self, start: int, stop: int) -> None:
        """Makes the data in memory begin at ``start`` and reach at least ``stop``."""
        is_next = self._start <= start <= self._end + _SMALL_GAP
        self._ahead = min(max(_FIRST_AHEAD, 2 * self._ahead), _MOST_AHEAD) if is_next else 0
        kept = self._data[start - self._start :] if is_next else b""
        first = start + len(kept)
        last = min(max(stop, first + self._ahead), self._size)
        self._data = b"".join([kept, *self._fetch(first, last)])
        self._start = start

    def _fetch(self, start: int, stop: int) -> list[bytes]:
        starts = [*range(start, stop, REQUEST_BYTES)]
        ends = [*starts[1:], stop]
        with as_os_error(self._place):
            pieces = self._system.cat_ranges([self._path] * len(starts), starts, ends)
            for piece in pieces:
                if isinstance(piece, Exception):
                    raise piece
        return list(pieces)


def open_store(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Raises:
        ValueError: fsspec does not know the URL, or cannot open the store; the message says why.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{error}; install the package that fsspec needs") from None
    except ValueError as error:
        raise ValueError(f"{error}; give a path, or a URL such as s3://bucket/runs") from None
    except Exception as error:  # Each store has its own exceptions.
        raise ValueError(_one_line(error)) from None
    return system, path


@contextmanager
def as_os_error(place: str) -> Iterator[None]:
    """Turns any exception inside into an ``OSError`` of one line.

    Each store has its own exceptions; some cannot even be sent to another process.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise type(error)(errno.ENOENT, "no such file or bucket", place) from error
    except PermissionError as error:
        raise PermissionError(errno.EACCES, _one_line(error), place) from error
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        raise OSError(number or errno.EIO, _one_line(error), place) from error


def discard(file: Any) -> None:
    """Abandons a file that is being written: closing it would keep the part in the store."""
    from fsspec.spec import AbstractBufferedFile

    with suppress(Exception):
        if isinstance(file, AbstractBufferedFile):
            file.closed = True
            file.discard()
        else:
            file.close()


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        return error.strerror or text or type(error).__name__
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
