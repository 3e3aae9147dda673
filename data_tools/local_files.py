"""The files of a corpus on a local disk; a limited number of tars stay open, shared by threads."""

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from data_tools.errors import InputError

REMEDY = "restore it from a good copy or shard the text again"


class _Descriptor:
    """An open file that is closed when the last thread that uses it has released it."""

    __slots__ = ("number",)

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self.number)


class LocalFiles:
    """The files of a local corpus; checks the size of each tar when it opens the tar."""

    def __init__(self, folder: Path, sizes: Mapping[str, int], *, limit: int) -> None:
        self.folder = folder
        self._sizes = sizes
        self._limit = max(1, limit)
        self._descriptors: OrderedDict[str, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def read_into(self, name: str, offset: int, content: memoryview) -> None:
        """Fills `content` from byte `offset` of a file on.

        Raises:
            InputError: The file is missing, has a wrong size, or ends too early.
        """
        descriptor = self._descriptor(name)
        filled = 0
        while filled < len(content):
            count = os.preadv(descriptor.number, [content[filled:]], offset + filled)
            if not count:
                raise InputError(
                    f"{self.folder / name}: only {filled} of {len(content)} "
                    f"bytes at byte {offset}; {REMEDY}"
                )
            filled += count

    def will_need(self, name: str, offset: int, size: int) -> None:
        """Asks the system to read ahead.

        A file that cannot be opened gives an error when it is read.
        """
        with suppress(InputError, OSError):
            descriptor = self._descriptor(name)
            os.posix_fadvise(descriptor.number, offset, size, os.POSIX_FADV_WILLNEED)

    def check(self, name: str) -> None:
        """Checks a file's size.

        Raises:
            InputError: The file is missing, or has a wrong size.
        """
        path = self.folder / name
        try:
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise InputError(f"{path} is missing, and the manifest lists it: {REMEDY}") from error
        if size != self._sizes[name]:
            raise InputError(
                f"{path} has {size} bytes, not the manifest's {self._sizes[name]}: {REMEDY}"
            )

    def drop_cached(self, name: str, offset: int, size: int) -> bool:
        """Drops cached bytes; returns False, because local files are not cached."""
        return False

    def fetch_index(self, name: str, *, again: bool = False) -> bool:
        """Fetches the index of a tar; returns False, because a local index is already there."""
        return False

    @property
    def name(self) -> str:
        """The name of the corpus in error messages."""
        return str(self.folder)

    def local_file(self, name: str) -> Path:
        """The path of a small file of the corpus."""
        return self.folder / name

    def local_folder(self, name: str) -> Path:
        """The path of a folder of small files."""
        return self.folder / name

    def close(self) -> None:
        """Closes every file that no thread is reading."""
        with self._lock:
            self._descriptors.clear()

    def _descriptor(self, name: str) -> _Descriptor:
        with self._lock:
            descriptor = self._descriptors.get(name)
            if descriptor is not None:
                self._descriptors.move_to_end(name)
                return descriptor
        self.check(name)
        descriptor = _Descriptor(self.folder / name)
        if os.fstat(descriptor.number).st_size != self._sizes[name]:  # Replaced just now.
            self.check(name)
        with self._lock:
            self._descriptors[name] = descriptor
            while len(self._descriptors) > self._limit:
                self._descriptors.popitem(last=False)
        return descriptor
