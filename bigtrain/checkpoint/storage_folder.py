"""A folder of files, on a disk or behind a URL: what a checkpoint asks of a file system. No torch.

On a disk a folder gets its name in one step, and what is written waits until the disk has it. An
object store has no folders to rename: there a file is there whole or not at all once it is closed,
and a marker written last says that the rest is there.
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

_WITHOUT_FOLDERS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss"})
"""Protocols of stores whose one folder is the bucket; fsspec would make one of a mistyped name."""

_BYTES_TO_SEND = 2**23


class FolderError(ValueError):
    """A place cannot be used; the message is one line and says which and why."""


class Folder(ABC):
    """A folder that may not exist yet. Its errors are those of files: ``OSError``."""

    renames: bool
    """Whether a folder can get another name, in one step."""
    name: str
    """Its last part."""

    @abstractmethod
    def child(self, name: str) -> "Folder":
        """A folder in this one."""

    @abstractmethod
    def names(self) -> list[str]:
        """What is in it, sorted; nothing where it does not exist."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""

    @abstractmethod
    def modified(self, name: str) -> float | None:
        """When a file was last written, in seconds since 1970; None where nobody knows."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A whole file."""

    @abstractmethod
    def opened(self, name: str) -> FileToRead:
        """A file to ``read_into``, as a context manager that closes it."""

    @abstractmethod
    def created(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A new file to write, which will survive a power cut once the context ends."""

    @abstractmethod
    def make(self) -> None:
        """Makes it, with its parents, where it does not exist."""

    @abstractmethod
    def settle(self) -> None:
        """Waits until the names in it would survive a power cut."""

    @abstractmethod
    def remove_file(self, name: str) -> None:
        """Removes one file, if it is there."""

    @abstractmethod
    def remove(self) -> None:
        """Removes it with all that is in it, if it is there."""

    @abstractmethod
    def rename(self, name: str) -> "Folder":
        """Gives it another name beside its own; only where it ``renames``."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Room that is left; None where nobody knows."""

    @abstractmethod
    def check_place(self) -> None:
        """Checks, without writing, that it is there or can be made.

        Raises:
            FolderError: It cannot.
        """

    def write(self, name: str, content: bytes) -> None:
        """Writes a whole file that will survive a power cut."""
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
        """What is in it, sorted; nothing where it does not exist."""
        return sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def modified(self, name: str) -> float | None:
        """When a file was last written, in seconds since 1970; None where there is none."""
        path = self.path / name
        return path.stat().st_mtime if path.is_file() else None

    def read(self, name: str) -> bytes:
        """A whole file."""
        return (self.path / name).read_bytes()

    def opened(self, name: str) -> FileToRead:
        """A file to ``read_into``."""
        return _DiskFile(self.path / name)

    @contextmanager
    def created(self, name: str) -> Iterator[IO[bytes]]:
        """A new file to write, which will survive a power cut once it ends."""
        with io.BufferedWriter(_FileToWrite(self.path / name, "wb")) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def make(self) -> None:
        """Makes it, with its parents, where it does not exist."""
        self.path.mkdir(parents=True, exist_ok=True)

    def settle(self) -> None:
        """Waits until the names in it would survive a power cut."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove_file(self, name: str) -> None:
        """Removes one file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes it with all that is in it, if it is there."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)

    def rename(self, name: str) -> "DiskFolder":
        """Gives it another name beside its own."""
        return DiskFolder(self.path.rename(self.path.with_name(name)))

    def free_bytes(self) -> int | None:
        """Room that is left for an ordinary user."""
        return shutil.disk_usage(self.path).free

    def check_place(self) -> None:
        """Checks that the nearest folder that exists lets us write.

        Raises:
            FolderError: It does not, or is none.
        """
        nearest = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise FolderError(f"{self.path}: {nearest} is no folder; give another place")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise FolderError(f"{self.path}: {nearest} cannot be written to; give another place")


class _FileToWrite(io.FileIO):
    """A file whose first bytes go to the disk while the next are written.

    Else all of them would wait in memory for the fsync: half as much time again, and more.
    """

    _waiting = _sent = 0

    def write(self, data: Any) -> int:
        """Writes some of the bytes; returns how many."""
        count = super().write(data)
        self._waiting += count
        if self._waiting >= _BYTES_TO_SEND:
            # Of pages that are not on the disk yet, Linux makes this the beginning of a write.
            os.posix_fadvise(self.fileno(), self._sent, self._waiting, os.POSIX_FADV_DONTNEED)
            self._sent, self._waiting = self._sent + self._waiting, 0
        return count


class _DiskFile(FileToRead):
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        """Ends the reading."""
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
    """A folder of an object store, or of anything else that fsspec knows."""

    renames = False

    def __init__(self, url: str, system: Any = None, path: str | None = None) -> None:
        """Opens the file system of a URL.

        Raises:
            FolderError: fsspec does not know it, lacks the package for it, or takes it for a
                pattern.
        """
        self.url = url.rstrip("/")
        if set(self.url) & set("*?[]"):
            raise FolderError(f"{url}: fsspec takes *?[] for a pattern; give another name")
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
        """What is in it, sorted; nothing where it does not exist."""
        try:
            with as_os_error(self.url):
                self._system.invalidate_cache()
                found = self._system.ls(self._path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        # Some stores list the folder itself, or a file of its name.
        paths = (path.strip("/").rpartition("/") for path in found)
        return sorted({name for parent, _, name in paths if parent == self._path.strip("/")})

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        try:
            with as_os_error(f"{self.url}/{name}"):
                self._system.invalidate_cache()
                info = self._system.info(f"{self._path}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def modified(self, name: str) -> float | None:
        """When a file was last written, in seconds since 1970; None where nobody knows."""
        try:
            with as_os_error(f"{self.url}/{name}"):
                return float(self._system.modified(f"{self._path}/{name}").timestamp())
        except OSError:  # Not every store tells.
            return None

    def read(self, name: str) -> bytes:
        """A whole file."""
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
        """A new file to write, which is there once it ends, unless it ends in an error."""
        with as_os_error(f"{self.url}/{name}"):
            file = self._system.open(f"{self._path}/{name}", "wb")
            try:
                yield file
            except BaseException:
                discard(file)
                raise
            file.close()

    def make(self) -> None:
        """Makes it where the store has folders at all."""
        if not self._is_of_a_bucket:
            with as_os_error(self.url):
                self._system.makedirs(self._path, exist_ok=True)

    def settle(self) -> None:
        """A store keeps what it has taken."""

    def remove_file(self, name: str) -> None:
        """Removes one file, if it is there."""
        with suppress(FileNotFoundError), as_os_error(f"{self.url}/{name}"):
            self._system.rm_file(f"{self._path}/{name}")

    def remove(self) -> None:
        """Removes it with all that is in it, if it is there."""
        with suppress(FileNotFoundError), as_os_error(self.url):
            self._system.invalidate_cache()
            self._system.rm(self._path, recursive=True)

    def rename(self, name: str) -> "Folder":
        """A store cannot."""
        raise OSError(f"{self}: an object store renames no folders")

    def free_bytes(self) -> int | None:
        """Nobody knows."""
        return None

    def check_place(self) -> None:
        """Checks that there is such a bucket, and that it answers us.

        Raises:
            FolderError: There is none, or it does not.
        """
        if not self._is_of_a_bucket:
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
    def _is_of_a_bucket(self) -> bool:
        protocol = self._system.protocol
        names = {protocol} if isinstance(protocol, str) else {*protocol}
        return bool(names & _WITHOUT_FOLDERS)


def open_folder(place: str | Path) -> Folder:
    """The folder at a path or a URL; it need not exist.

    Raises:
        FolderError: fsspec does not know the URL, or lacks the package for it.
    """
    return UrlFolder(str(place)) if "://" in str(place) else DiskFolder(Path(place))
