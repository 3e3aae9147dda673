"""The tars read last, held open: a bounded number, shared by threads."""

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from data_tools.errors import InputError

MEND = "restore it from a good copy or shard the text again"


class _Descriptor:
    """An open file that closes with the last thread that holds it."""

    __slots__ = ("number",)

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self.number)


class LocalFiles:
    """The files of a local corpus; each tar is held to its known size when it is opened."""

    def __init__(self, folder: Path, sizes: Mapping[str, int], *, limit: int) -> None:
        self.folder = folder
        self._sizes = sizes
        self._limit = max(1, limit)
        self._descriptors: OrderedDict[str, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def read_into(self, name: str, offset: int, content: memoryview) -> None:
        """Fills `content` from a place in a file.

        Raises:
            InputError: The file is missing, of another size, or ends too early.
        """
        descriptor = self._descriptor(name)
        filled = 0
        while filled < len(content):
            count = os.preadv(descriptor.number, [content[filled:]], offset + filled)
            if not count:
                raise InputError(
                    f"{self.folder / name}: only {filled} of {len(content)} "
                    f"bytes at byte {offset}; {MEND}"
                )
            filled += count

    def will_need(self, name: str, offset: int, size: int) -> None:
        """Tells the system to read ahead; what cannot be opened is told by whoever reads it."""
        with suppress(InputError, OSError):
            descriptor = self._descriptor(name)
            os.posix_fadvise(descriptor.number, offset, size, os.POSIX_FADV_WILLNEED)

    def check(self, name: str) -> None:
        """Looks at a file's size.

        Raises:
            InputError: The file is missing, or of another size.
        """
        path = self.folder / name
        try:
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise InputError(f"{path} is missing, and the manifest lists it: {MEND}") from error
        if size != self._sizes[name]:
            raise InputError(
                f"{path} has {size} bytes, not the manifest's {self._sizes[name]}: {MEND}"
            )

    def forget(self, name: str, offset: int, size: int) -> bool:
        """Whether reading the place again could give other bytes: no, these are the tar's own."""
        return False

    def bring_index(self, name: str, *, again: bool = False) -> bool:
        """Whether another index could be had: no, it lies where it is read."""
        return False

    @property
    def name(self) -> str:
        """What errors call the corpus."""
        return str(self.folder)

    def local_file(self, name: str) -> Path:
        """Where a small file of the corpus lies."""
        return self.folder / name

    def local_folder(self, name: str) -> Path:
        """Where a folder of small files lies."""
        return self.folder / name

    def close(self) -> None:
        """Closes every file that no thread reads just now."""
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
