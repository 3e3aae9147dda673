"""A folder on a disk or in an object store, with the operations that checkpoints need. No torch.

On a disk a folder can be renamed in one step, and a write returns once the disk has the file. An
object store cannot rename folders, but a file appears there only when it is closed, and complete.
"""

import errno
import io
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from bigtrain.checkpoint.object_store import FileToRead, ReadAhead, as_os_error, discard, open_store
from data_tools.files import sync_path

_WITHOUT_FOLDERS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss"})
"""Stores without folders below the bucket. fsspec would create a bucket of a mistyped name."""

_BYTES_TO_SEND = 2**23


class FolderError(ValueError):
    """A folder cannot be used; the message is one line with its path and the cause."""


class Folder(ABC):
    """A folder that may not exist yet. Its methods raise ``OSError``."""

    renames: bool
    """Whether a folder can be renamed, in one step."""
    name: str
    """The last part of its path."""

    @abstractmethod
    def child(self, name: str) -> "Folder":
        """A folder in this one."""

    @abstractmethod
    def names(self) -> list[str]:
        """The names in it, sorted; empty if it does not exist."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file; None if it does not exist."""

    @abstractmethod
    def modified(self, name: str) -> float | None:
        """When a file was last written, in seconds since 1970; None if unknown."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file."""

    @abstractmethod
    def opened(self, name: str) -> FileToRead:
        """A file to ``read_into``, as a context manager that closes it."""

    @abstractmethod
    def created(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A new file to write; it survives a power cut once the context ends."""

    @abstractmethod
    def make(self) -> None:
        """Makes it, with its parents, if it does not exist."""

    @abstractmethod
    def settle(self) -> None:
        """Waits until the names in it survive a power cut."""

    @abstractmethod
    def remove_file(self, name: str) -> None:
        """Removes one file, if it exists."""

    @abstractmethod
    def remove(self) -> None:
        """Removes it with all that is in it, if it exists."""

    @abstractmethod
    def rename(self, name: str) -> "Folder":
        """Renames it, in the same parent; only if ``renames``."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Free space; None if unknown."""

    @abstractmethod
    def check_place(self) -> None:
        """Checks, without writing, that it exists or can be made.

        Raises:
            FolderError: It cannot be made.
        """

    def write(self, name: str, content: bytes) -> None:
        """Writes a file that survives a power cut."""
        with self.created(name) as file:
            file.write(content)


class DiskFolder(Folder):
    """A folder of a mounted file system."""

    renames = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    def __str__(self) -> str:
        return str(self.path)

    def child(self, name: str) -> "DiskFolder":
        """A folder in this one."""
        return DiskFolder(self.path / name)

    def names(self) -> list[str]:
        """The names in it, sorted; empty if it does not exist."""
        return sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if it does not exist."""
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def modified(self, name: str) -> float | None:
        """When a file was last written, in seconds since 1970; None if it does not exist."""
        path = self.path / name
        return path.stat().st_mtime if path.is_file() else None

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return (self.path / name).read_bytes()

    def opened(self, name: str) -> FileToRead:
        """A file to ``read_into``."""
        return _DiskFile(self.path / name)

    @contextmanager
    def created(self, name: str) -> Iterator[IO[bytes]]:
        """A new file to write; it survives a power cut once the context ends."""
        with io.BufferedWriter(_FileToWrite(self.path / name, "wb")) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def make(self) -> None:
        """Makes it, with its parents, if it does not exist."""
        self.path.mkdir(parents=True, exist_ok=True)

    def settle(self) -> None:
        """Waits until the names in it survive a power cut."""
        sync_path(self.path)

    def remove_file(self, name: str) -> None:
        """Removes one file, if it exists."""
        (self.path / name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes it with all that is in it, if it exists."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)

    def rename(self, name: str) -> "DiskFolder":
        """Renames it, in the same parent."""
        return DiskFolder(self.path.rename(self.path.with_name(name)))

    def free_bytes(self) -> int | None:
        """Free space for an ordinary user."""
        return shutil.disk_usage(self.path).free

    def check_place(self) -> None:
        """Checks that the nearest existing folder is writable.

        Raises:
            FolderError: It is not writable, or not a folder.
        """
        nearest = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise FolderError(f"{self.path}: {nearest} is not a folder; give another place")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise FolderError(f"{self.path}: {nearest} cannot be written to; give another place")


class _FileToWrite(io.FileIO):
    """A file whose first bytes go to the disk while the next are written.

    Otherwise all of them wait in memory for the fsync, which takes half as much time again or more.
    """

    _waiting = _sent = 0

    def write(self, data: Any) -> int:
        """Writes some of the bytes; returns how many."""
        count = super().write(data)
        self._waiting += count
        if self._waiting >= _BYTES_TO_SEND:
            # For pages that are not on the disk yet, this makes Linux begin to write them.
            os.posix_fadvise(self.fileno(), self._sent, self._waiting, os.POSIX_FADV_DONTNEED)
            self._sent, self._waiting = self._sent + self._waiting, 0
        return count


class _DiskFile(FileToRead):
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)

    def read_into(self, start: int, buffer: memoryview) -> int:
        """Fills ``buffer`` from byte ``start`` on; returns how many bytes there were."""
        done = 0
        while done < len(buffer):
            count = os.preadv(self._descriptor, [buffer[done:]], start + done)
            if not count:
                break
            done += count
        return done


class UrlFolder(Folder):
    """A folder of an object store, or of another file system of fsspec."""

    renames = False

    def __init__(self, url: str, system: Any = None, path: str | None = None) -> None:
        """Opens the file system of a URL.

        Raises:
            FolderError: fsspec does not know it, needs another package for it, or would read it
                as a pattern.
        """
        self.url = url.rstrip("/")
        if set(self.url) & set("*?[]"):
            raise FolderError(f"{url}: fsspec reads *?[] as a pattern; give another name")
        self.name = self.url.rsplit("/", 1)[-1]
        if system is None or path is None:
            try:
                system, path = open_store(self.url)
            except ValueError as error:
                raise FolderError(f"{url}: {error}") from None
        self._system, self._path = system, path.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def child(self, name: str) -> "UrlFolder":
        """A folder in this one."""
        return UrlFolder(f"{self.url}/{name}", self._system, f"{self._path}/{name}")

    def names(self) -> list[str]:
        """The names in it, sorted; empty if it does not exist."""
        try:
            with as_os_error(self.url):
                self._system.invalidate_cache()
                found = self._system.ls(self._path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        # Some stores also list the folder itself, or a file of the same name.
        paths = (path.strip("/").rpartition("/") for path in found)
        return sorted({name for parent, _, name in paths if parent == self._path.strip("/")})

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if it does not exist."""
        try:
            with as_os_error(f"{self.url}/{name}"):
                self._system.invalidate_cache()
                info = self._system.info(f"{self._path}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def modified(self, name: str) -> float | None:
        """When a file was last written, in seconds since 1970; None if unknown."""
        try:
            with as_os_error(f"{self.url}/{name}"):
                return float(self._system.modified(f"{self._path}/{name}").timestamp())
        except OSError:  # Not every store knows.
            return None

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with as_os_error(f"{self.url}/{name}"):
            return bytes(self._system.cat_file(f"{self._path}/{name}"))

    def opened(self, name: str) -> FileToRead:
        """A file to ``read_into``."""
        size = self.size(name)
        if size is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", f"{self.url}/{name}")
        return ReadAhead(
            self._system, f"{self._path}/{name}", size=size, place=f"{self.url}/{name}"
        )

    @contextmanager
    def created(self, name: str) -> Iterator[IO[bytes]]:
        """A new file to write; it exists once the context ends without an error."""
        with as_os_error(f"{self.url}/{name}"):
            file = self._system.open(f"{self._path}/{name}", "wb")
            try:
                yield file
            except BaseException:
                discard(file)
                raise
            file.close()

    def make(self) -> None:
        """Makes it, if the store has folders."""
        if not self._is_in_bucket:
            with as_os_error(self.url):
                self._system.makedirs(self._path, exist_ok=True)

    def settle(self) -> None:
        """Nothing to wait for: a store keeps what it has accepted."""

    def remove_file(self, name: str) -> None:
        """Removes one file, if it exists."""
        with suppress(FileNotFoundError), as_os_error(f"{self.url}/{name}"):
            self._system.rm_file(f"{self._path}/{name}")

    def remove(self) -> None:
        """Removes it with all that is in it, if it exists."""
        with suppress(FileNotFoundError), as_os_error(self.url):
            self._system.invalidate_cache()
            self._system.rm(self._path, recursive=True)

    def rename(self, name: str) -> "Folder":
        """Always raises: a store cannot rename folders."""
        raise OSError(f"{self}: an object store cannot rename folders")

    def free_bytes(self) -> int | None:
        """Unknown."""
        return None

    def check_place(self) -> None:
        """Checks that the bucket exists and answers.

        Raises:
            FolderError: It does not.
        """
        if not self._is_in_bucket:
            return
        bucket = self._path.split("/")[0]
        try:
            with as_os_error(self.url):
                self._system.info(bucket)
        except FileNotFoundError:
            raise FolderError(f"{self.url}: there is no bucket {bucket}; make it") from None
        except OSError as error:
            raise FolderError(f"{self.url}: {error.strerror or error}") from None

    @property
    def _is_in_bucket(self) -> bool:
        protocol = self._system.protocol
        names = {protocol} if isinstance(protocol, str) else {*protocol}
        return bool(names & _WITHOUT_FOLDERS)


def open_folder(place: str | Path) -> Folder:
    """The folder at a path or a URL; it need not exist.

    Raises:
        FolderError: fsspec does not know the URL, or needs another package for it.
    """
    return UrlFolder(str(place)) if "://" in str(place) else DiskFolder(Path(place))
