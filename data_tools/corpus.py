"""Any tokens of a corpus by their place in its global stream, read straight from the tars.

Reads with `os.pread`, never a memory map: a truncated file must be an error line, not a SIGBUS.
"""

import os
import threading
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_tools.errors import InputError
from data_tools.index import PackPlace, load_index
from data_tools.manifest import Manifest, ShardInfo, load_manifest

Verify = Literal["touch", "off"]

DOCS_TYPE = np.dtype("<i8")
_MEND = "restore it from a good copy or shard the text again"


class Corpus:
    """A corpus folder, open for reading; safe to use from several threads, and after a fork."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        verify: Verify = "touch",
        max_open_files: int = 64,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self._packs: list[PackPlace] = []
        self._shard_of: list[ShardInfo] = []
        for shard in manifest.shards:
            _check_size(folder / shard.file, shard)
            packs = load_index(folder / shard.file, shard)
            self._packs += packs
            self._shard_of += [shard] * len(packs)
        self._starts = [0, *accumulate(pack.num_tokens for pack in self._packs)]
        self._type = manifest.token_type
        self._unverified = set(range(len(self._packs))) if verify == "touch" else set()
        self._files = _OpenFiles(folder, max_open_files)

    @property
    def num_tokens(self) -> int:
        """Tokens in the global stream: all packs in the order of the manifest."""
        return self._starts[-1]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Reads tokens [start, stop) of the global stream, across packs and shards.

        Returns:
            A fresh array `[stop - start]` of the corpus's token type.

        Raises:
            InputError: The range lies outside the corpus, or a tar on disk is damaged.
        """
        if not 0 <= start <= stop <= self.num_tokens:
            raise InputError(
                f"tokens [{start}, {stop}) lie outside {self.folder}, "
                f"which has {self.num_tokens} tokens"
            )
        out = np.empty(stop - start, dtype=self._type)
        pack, filled = bisect_right(self._starts, start) - 1, 0
        while filled < len(out):
            first = start + filled - self._starts[pack]
            count = min(len(out) - filled, self._packs[pack].num_tokens - first)
            out[filled : filled + count] = self._pack_tokens(pack, first, count)
            pack, filled = pack + 1, filled + count
        return out

    def documents(self, limit: int | None = None) -> Iterator[NDArray[Any]]:
        """Yields documents in order, each with the end-of-document token it was stored with."""
        given = 0
        for pack, place in enumerate(self._packs):
            starts = self._document_starts(pack)
            for first, last in zip(starts, [*starts[1:], place.num_tokens], strict=True):
                if given == limit:
                    return
                yield self.read(self._starts[pack] + first, self._starts[pack] + last)
                given += 1

    def close(self) -> None:
        """Closes every file."""
        self._files.close()

    def __enter__(self) -> "Corpus":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _pack_tokens(self, pack: int, first: int, count: int) -> NDArray[Any]:
        place = self._packs[pack]
        if pack in self._unverified:
            size = place.num_tokens * self._type.itemsize
            self._check(pack, "tokens", place.tokens_offset, size, place.tokens_crc32)
            self._unverified.discard(pack)
        offset = place.tokens_offset + first * self._type.itemsize
        return np.frombuffer(
            self._bytes(pack, offset, count * self._type.itemsize), dtype=self._type
        )

    def _document_starts(self, pack: int) -> list[int]:
        place = self._packs[pack]
        size = place.num_docs * DOCS_TYPE.itemsize
        content = self._check(pack, "docs", place.docs_offset, size, place.docs_crc32)
        starts: list[int] = np.frombuffer(content, dtype=DOCS_TYPE).tolist()
        return starts

    def _check(self, pack: int, what: str, offset: int, size: int, crc32: int) -> bytes:
        content = self._bytes(pack, offset, size)
        if zlib.crc32(content) != crc32:
            raise InputError(
                f"{self.folder / self._shard_of[pack].file}: pack {self._packs[pack].key}, {what} "
                f"at byte {offset}: crc32 is {zlib.crc32(content)}, not {crc32}; {_MEND}"
            )
        return content

    def _bytes(self, pack: int, offset: int, size: int) -> bytes:
        content = self._files.read(self._shard_of[pack], offset, size)
        if len(content) != size:
            raise InputError(
                f"{self.folder / self._shard_of[pack].file}: pack {self._packs[pack].key}: "
                f"only {len(content)} of {size} bytes at byte {offset}; {_MEND}"
            )
        return content


def open_corpus(folder: Path, *, verify: Verify = "touch", max_open_files: int = 64) -> Corpus:
    """Opens a corpus folder.

    Args:
        folder: The folder that holds `manifest.json`.
        verify: `touch` checks the crc32 of each pack when it is first read; `off` never does.
        max_open_files: Bound on the tars held open at once.

    Raises:
        InputError: The manifest, a tar or an index is missing or does not fit the others.
    """
    return Corpus(folder, load_manifest(folder), verify=verify, max_open_files=max_open_files)


class _OpenFiles:
    """The tars read last, held open; the lock keeps one thread from closing another's file."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = max(1, limit)
        self._descriptors: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, shard: ShardInfo, offset: int, size: int) -> bytes:
        with self._lock:
            return os.pread(self._descriptor(shard), size, offset)

    def close(self) -> None:
        with self._lock:
            while self._descriptors:
                os.close(self._descriptors.popitem()[1])

    def _descriptor(self, shard: ShardInfo) -> int:
        descriptor = self._descriptors.get(shard.file)
        if descriptor is not None:
            self._descriptors.move_to_end(shard.file)
            return descriptor
        if len(self._descriptors) >= self._limit:
            os.close(self._descriptors.popitem(last=False)[1])
        _check_size(self._folder / shard.file, shard)
        descriptor = os.open(self._folder / shard.file, os.O_RDONLY)
        self._descriptors[shard.file] = descriptor
        return descriptor


def _check_size(path: Path, shard: ShardInfo) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing, and the manifest lists it: {_MEND}") from error
    if size != shard.bytes:
        raise InputError(f"{path} has {size} bytes, not the manifest's {shard.bytes}: {_MEND}")
