"""A folder of files, on a disk or behind a URL: what a checkpoint asks of a file system. No torch.

On a disk a folder gets its name in one step, and what is written waits until the disk has it. An
object store has no folders to rename: there a file is there whole or not at all once it is closed,
and a marker written last says that the rest is there. Knows fsspec.
"""

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any


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
    def read(self, name: str) -> bytes:
        """A whole file."""

    @abstractmethod
    def opened(self, name: str) -> "FileToRead":
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

    def write(self, name: str, content: bytes) -> None:
        """Writes a whole file that will survive a power cut."""
        with self.created(name) as file:
            file.write(content)


class FileToRead(ABC):
    """A file of which parts are read; its context closes it."""

    @abstractmethod
    def read_into(self, start: int, buffer: memoryview) -> int:
        """Fills ``buffer`` from byte ``start`` on; returns how many bytes there were."""

    @abstractmethod
    def close(self) -> None:
        """Ends the reading."""

    def __enter__(self) -> "FileToRead":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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

    def read(self, name: str) -> bytes:
        """A whole file."""
        return (self.path / name).read_bytes()

    def opened(self, name: str) -> "FileToRead":
        """A file to ``read_into``."""
        return _DiskFile(self.path / name)

    @contextmanager
    def created(self, name: str) -> Iterator[IO[bytes]]:
        """A new file to write, which will survive a power cut once it ends."""
        with (self.path / name).open("wb") as file:
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
        shutil.rmtree(self.path, ignore_errors=True)

    def rename(self, name: str) -> "DiskFolder":
        """Gives it another name beside its own."""
        return DiskFolder(self.path.rename(self.path.with_name(name)))

    def free_bytes(self) -> int | None:
        """Room that is left for an ordinary user."""
        return shutil.disk_usage(self.path).free


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
            FolderError: fsspec does not know it, or lacks the package for it.
        """
        self.url = url.rstrip("/")
        self.name = self.url.rsplit("/", 1)[-1]
        if system is None or path is None:
            system, path = _open_url(self.url)
        self._system, self._path = system, path.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def child(self, name: str) -> "UrlFolder":
        """A folder in this one."""
        return UrlFolder(f"{self.url}/{name}", self._system, f"{self._path}/{name}")

    def names(self) -> list[str]:
        """What is in it, sorted; nothing where it does not exist."""
        self._system.invalidate_cache()
        try:
            found = self._system.ls(self._path, detail=False)
        except FileNotFoundError:
            return []
        names = {path.rstrip("/").rsplit("/", 1)[-1] for path in found}
        return sorted(names - {self._path.rsplit("/", 1)[-1]} if len(found) == 1 else names)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        self._system.invalidate_cache()
        try:
            info = self._system.info(f"{self._path}/{name}")
        except FileNotFoundError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def read(self, name: str) -> bytes:
        """A whole file."""
        return bytes(self._system.cat_file(f"{self._path}/{name}"))

    def opened(self, name: str) -> FileToRead:
        """A file to ``read_into``."""
        return _UrlFile(self._system, f"{self._path}/{name}")

    @contextmanager
    def created(self, name: str) -> Iterator[IO[bytes]]:
        """A new file to write, which is there once it ends."""
        with self._system.open(f"{self._path}/{name}", "wb") as file:
            yield file

    def make(self) -> None:
        """Makes it where the store has folders at all."""
        self._system.makedirs(self._path, exist_ok=True)

    def settle(self) -> None:
        """A store keeps what it has taken."""

    def remove_file(self, name: str) -> None:
        """Removes one file, if it is there."""
        try:
            self._system.rm_file(f"{self._path}/{name}")
        except FileNotFoundError:
            return

    def remove(self) -> None:
        """Removes it with all that is in it, if it is there."""
        self._system.invalidate_cache()
        try:
            self._system.rm(self._path, recursive=True)
        except FileNotFoundError:
            return

    def rename(self, name: str) -> "Folder":
        """A store cannot."""
        raise OSError(f"{self}: an object store renames no folders")

    def free_bytes(self) -> int | None:
        """Nobody knows."""
        return None


class _UrlFile(FileToRead):
    def __init__(self, system: Any, path: str) -> None:
        self._system, self._path = system, path

    def close(self) -> None:
        """Nothing is open between two reads."""

    def read_into(self, start: int, buffer: memoryview) -> int:
        """Fills ``buffer`` from byte ``start`` on; returns how many bytes there were."""
        data = self._system.cat_file(self._path, start=start, end=start + len(buffer))
        buffer[: len(data)] = data
        return len(data)


def open_folder(place: str | Path) -> Folder:
    """The folder at a path or a URL; it need not exist.

    Raises:
        FolderError: fsspec does not know the URL, or lacks the package for it.
    """
    return UrlFolder(str(place)) if "://" in str(place) else DiskFolder(Path(place))


def _open_url(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise FolderError(f"{url}: {error}; install the package that fsspec needs") from None
    return system, path
