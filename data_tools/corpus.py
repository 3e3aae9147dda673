"""Reads any tokens of a corpus, by their position in its token stream, directly from the tars.

Reads with `os.preadv`, not through a memory map, so that a truncated file raises an error instead
of a SIGBUS. Opening reads only the manifest; the index of a tar is read when the tar is first used.
"""

import threading
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_tools.errors import InputError
from data_tools.local_files import REMEDY, LocalFiles
from data_tools.manifest import Manifest, ShardInfo, load_manifest
from data_tools.remote_files import Cache, RemoteFiles, RemoteFolder, is_url
from data_tools.tar_index import PackLocation, index_path, load_index

Verify = Literal["touch", "off"]

DOCS_TYPE = np.dtype("<i8")


@dataclass(frozen=True, slots=True)
class DocumentLocation:
    """The location of a document; its tokens are [start, stop) of the global stream."""

    shard: str
    pack: str
    number: int
    """Its number in the pack."""
    start: int
    stop: int


@dataclass(slots=True)
class _Shard:
    """The state of one tar: a few bytes per pack, because a corpus may have millions of packs."""

    info: ShardInfo
    starts: "array[int]"
    """Where each pack begins, in tokens of the tar."""
    offsets: "array[int]"
    """Where the tokens of each pack begin, in bytes of the tar."""
    verified: bytearray
    """Whether the crc32 of each pack was checked."""
    prefetched: bytearray
    """Whether reading ahead was requested for each pack."""


class Corpus:
    """A corpus folder, open for reading. Several threads may use it, but not forked processes."""

    def __init__(
        self, manifest: Manifest, files: LocalFiles | RemoteFiles, *, verify: Verify = "touch"
    ) -> None:
        self.folder = files.folder
        """The local folder of the manifest and other small files, or of their copies if remote."""
        self.manifest = manifest
        self._files = files
        self._verify = verify
        self._type = manifest.token_type
        self._first_tokens = [0, *accumulate(shard.tokens for shard in manifest.shards)]
        self._first_packs = [0, *accumulate(shard.packs for shard in manifest.shards)]
        self._shards: list[_Shard | None] = [None] * len(manifest.shards)
        self._lock = threading.Lock()
        self._locations = lru_cache(maxsize=8)(self._load_locations)

    @property
    def num_tokens(self) -> int:
        """Tokens in the global stream: all packs in the order of the manifest."""
        return self._first_tokens[-1]

    @property
    def num_packs(self) -> int:
        """Packs of all tars, in the order of the manifest."""
        return self._first_packs[-1]

    def check_files(self) -> None:
        """Checks the size of every tar.

        Raises:
            InputError: A tar is missing, or has another size than the manifest says.
        """
        for shard in self.manifest.shards:
            self._files.check(shard.file)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Reads tokens [start, stop) of the global stream, across packs and shards.

        Returns:
            A fresh array `[stop - start]` of the corpus's token type.

        Raises:
            InputError: The range is outside the corpus, or a tar on disk is damaged.
        """
        self._check_range(start, stop)
        row: NDArray[Any] = self.read_rows([start], stop - start)[0]
        return row

    def read_rows(self, starts: Sequence[int], length: int) -> NDArray[Any]:
        """Reads a row of `length` tokens from each start, across packs and shards.

        Returns:
            A fresh array `[rows, length]` of the corpus's token type.

        Raises:
            InputError: A row is outside the corpus, or a tar on disk is damaged.
        """
        rows = np.empty((len(starts), length), dtype=self._type)
        if not rows.size:
            return rows
        content = memoryview(rows).cast("B")  # type: ignore[arg-type]
        width = length * self._type.itemsize
        for row, start in enumerate(starts):
            self._check_range(start, start + length)
            self._fill(content[row * width : (row + 1) * width], start)
        return rows

    def pack_range(self, pack: int) -> tuple[int, int]:
        """The range [start, stop) of a pack in the global stream."""
        shard, number, location = self._pack(pack)
        start = self._first_tokens[shard] + self._open(shard).starts[number]
        return start, start + location.num_tokens

    def document_starts(self, pack: int) -> NDArray[np.int64]:
        """Where each document of a pack starts in the global stream."""
        shard, _, location = self._pack(pack)
        return self.pack_range(pack)[0] + self._positions(
            shard, location, "docs", location.docs_offset, location.num_docs, location.docs_crc32
        )

    def sentence_starts(self, pack: int) -> NDArray[np.int64]:
        """Where each sentence of a pack starts in the global stream.

        Raises:
            InputError: The corpus was made without sentences.
        """
        shard, _, location = self._pack(pack)
        if not location.num_sents:
            raise InputError(
                f"{self._files.name} has no sentence starts: shard the text again with --sentences"
            )
        return self.pack_range(pack)[0] + self._positions(
            shard,
            location,
            "sents",
            location.sents_offset,
            location.num_sents,
            location.sents_crc32,
        )

    def find_documents(self, start: int, stop: int) -> list[DocumentLocation]:
        """Finds the documents that have tokens in [start, stop) of the global stream."""
        found = []
        position = start
        while position < stop:
            shard = bisect_right(self._first_tokens, position) - 1
            number = (
                bisect_right(self._open(shard).starts, position - self._first_tokens[shard]) - 1
            )
            pack = self._first_packs[shard] + number
            location = self._locations(shard)[number]
            _, position = self.pack_range(pack)
            starts = self.document_starts(pack).tolist()
            for index, (begin, end) in enumerate(zip(starts, [*starts[1:], position], strict=True)):
                if begin < stop and end > start:
                    file = self.manifest.shards[shard].file
                    found.append(DocumentLocation(file, location.key, index, begin, end))
        return found

    def documents(self, limit: int | None = None) -> Iterator[NDArray[Any]]:
        """Yields documents in order, each with its end-of-document token."""
        yielded = 0
        for pack in range(self.num_packs):
            starts = self.document_starts(pack).tolist()
            for first, last in zip(starts, [*starts[1:], self.pack_range(pack)[1]], strict=True):
                if yielded == limit:
                    return
                yield self.read(first, last)
                yielded += 1

    def will_need(self, start: int, stop: int) -> None:
        """Starts to read or fetch tokens [start, stop) in the background."""
        size = self._type.itemsize
        position = start
        while position < stop:
            number, shard, pack = self._find(position)
            first = self._first_tokens[number] + shard.starts[pack]
            length = _pack_length(shard, pack)
            end = min(stop, first + length)
            if shard.verified[pack]:
                offset = shard.offsets[pack] + (position - first) * size
                self._files.will_need(shard.info.file, offset, (end - position) * size)
            elif not shard.prefetched[pack]:  # The first read of a pack reads all of it.
                shard.prefetched[pack] = True
                self._files.will_need(shard.info.file, shard.offsets[pack], length * size)
            position = end

    def local_file(self, name: str) -> Path:
        """The local path of a small file; if the corpus is remote, copies the file first."""
        return self._files.local_file(name)

    def local_folder(self, name: str) -> Path:
        """The local path of a folder of small files; if the corpus is remote, copies it first."""
        return self._files.local_folder(name)

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

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self._first_tokens[-1]:
            raise InputError(
                f"tokens [{start}, {stop}) lie outside {self._files.name}, "
                f"which has {self.num_tokens} tokens"
            )

    def _fill(self, content: memoryview, start: int) -> None:
        """Fills bytes with the tokens from `start` on."""
        size = self._type.itemsize
        filled = 0
        while filled < len(content):
            position = start + filled // size
            number, shard, pack = self._find(position)
            if not shard.verified[pack]:
                self._verify_pack(number, shard, pack)
            first = position - self._first_tokens[number] - shard.starts[pack]
            count = min(len(content) - filled, (_pack_length(shard, pack) - first) * size)
            self._files.read_into(
                shard.info.file,
                shard.offsets[pack] + first * size,
                content[filled : filled + count],
            )
            filled += count

    def _find(self, position: int) -> tuple[int, _Shard, int]:
        """The shard that holds a token, and the number of its pack."""
        number = bisect_right(self._first_tokens, position) - 1
        shard = self._shards[number] or self._open(number)
        return number, shard, bisect_right(shard.starts, position - self._first_tokens[number]) - 1

    def _open(self, number: int) -> _Shard:
        shard = self._shards[number]
        if shard is None:
            with self._lock:
                shard = self._shards[number] or self._load(number)
                self._shards[number] = shard
        return shard

    def _load(self, number: int) -> _Shard:
        packs = self._locations(number)
        is_verified = self._verify == "off"
        return _Shard(
            info=self.manifest.shards[number],
            starts=array("q", [0, *accumulate(pack.num_tokens for pack in packs)][:-1]),
            offsets=array("q", (pack.tokens_offset for pack in packs)),
            verified=bytearray([is_verified]) * len(packs),
            prefetched=bytearray(len(packs)),
        )

    def _load_locations(self, number: int) -> list[PackLocation]:
        info = self.manifest.shards[number]
        name = index_path(Path(info.file)).name
        self._files.fetch_index(name)
        try:
            return load_index(self.folder / info.file, info)
        except InputError:
            if not self._files.fetch_index(name, again=True):
                raise
            return load_index(self.folder / info.file, info)

    def _pack(self, pack: int) -> tuple[int, int, PackLocation]:
        shard = bisect_right(self._first_packs, pack) - 1
        number = pack - self._first_packs[shard]
        return shard, number, self._locations(shard)[number]

    def _verify_pack(self, number: int, shard: _Shard, pack: int) -> None:
        location = self._locations(number)[pack]
        size = location.num_tokens * self._type.itemsize
        self._checked(
            shard.info, location, "tokens", location.tokens_offset, size, location.tokens_crc32
        )
        shard.verified[pack] = True

    def _positions(
        self, shard: int, location: PackLocation, what: str, offset: int, count: int, crc32: int
    ) -> NDArray[np.int64]:
        info = self.manifest.shards[shard]
        content = self._checked(info, location, what, offset, count * DOCS_TYPE.itemsize, crc32)
        return np.frombuffer(content, dtype=DOCS_TYPE)

    def _checked(
        self,
        shard: ShardInfo,
        location: PackLocation,
        what: str,
        offset: int,
        size: int,
        crc32: int,
    ) -> bytearray:
        content = bytearray(size)
        self._files.read_into(shard.file, offset, memoryview(content))
        if zlib.crc32(content) != crc32 and self._files.drop_cached(shard.file, offset, size):
            self._files.read_into(shard.file, offset, memoryview(content))
        if zlib.crc32(content) != crc32:
            raise InputError(
                f"{self._files.name}/{shard.file}: pack {location.key}, {what} at byte {offset}: "
                f"crc32 is {zlib.crc32(content)}, not {crc32}; {REMEDY}"
            )
        return content


def open_corpus(
    folder: Path | str,
    *,
    verify: Verify = "touch",
    max_open_files: int = 64,
    cache: Cache | None = None,
) -> Corpus:
    """Opens a corpus.

    Args:
        folder: The folder with `manifest.json`, or its fsspec URL.
        verify: `touch` checks the crc32 of each pack when it is first read; `off` never does.
        max_open_files: How many tars may be open at the same time.
        cache: Where the pieces of a remote corpus are kept; by default in a temporary folder of
            the user, up to 32 GB.

    Raises:
        InputError: The manifest is missing or cannot be read.
    """
    if not is_url(str(folder)):
        manifest = load_manifest(Path(folder))
        files = LocalFiles(Path(folder), _sizes(manifest), limit=max_open_files)
        return Corpus(manifest, files, verify=verify)
    remote = RemoteFolder(str(folder), cache or Cache())
    manifest = load_manifest(remote.mirror)
    return Corpus(manifest, RemoteFiles(remote, _sizes(manifest)), verify=verify)


def _pack_length(shard: _Shard, pack: int) -> int:
    is_last = pack + 1 == len(shard.starts)
    return (shard.info.tokens if is_last else shard.starts[pack + 1]) - shard.starts[pack]


def _sizes(manifest: Manifest) -> dict[str, int]:
    return {shard.file: shard.bytes for shard in manifest.shards}
