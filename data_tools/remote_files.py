"""Reads corpora at a URL through a cache folder that the ranks of a node share.

A tar is fetched in chunks of 8 MiB. Each chunk is a file of the cache, written under a temporary
name and renamed, so that a reader sees a complete chunk or none. One process fetches a chunk while
the others wait for it. If the cache is larger than its limit, the least recently used chunks are
removed.
"""

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.errors import InputError
from data_tools.files import PART_SUFFIX, new_file, part_path, write_file
from data_tools.locks import wait_for_lock
from data_tools.manifest import MANIFEST_NAME

CHUNK_BYTES = 8 * 1024 * 1024
_LOCKS = 64
_FETCHERS = 4
_TRIES = 4
_STALE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Cache:
    """A node-local folder for pieces of remote corpora."""

    folder: Path = field(
        default_factory=lambda: Path(tempfile.gettempdir()) / f"bigtrain-cache-{os.getuid()}"
    )
    limit_bytes: int = 32 * 10**9


def is_url(name: str) -> bool:
    """Whether the name of a corpus is a URL such as `s3://bucket/corpus`."""
    return "://" in name


class RemoteFolder:
    """A remote corpus folder: tars are fetched in chunks when needed, other files are copied."""

    def __init__(self, url: str, cache: Cache) -> None:
        """Connects to the file system of a URL.

        Args:
            url: Any URL that fsspec supports.
            cache: Where chunks and copies are stored.

        Raises:
            InputError: fsspec does not support the protocol, or lacks the package for it.
        """
        import fsspec

        self.url = url.rstrip("/")
        self._cache = cache
        try:
            self._system, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise InputError(f"{url}: {error}; install the package that fsspec needs") from error
        try:
            manifest = self.fetch(MANIFEST_NAME, 0, None)
        except FileNotFoundError as error:
            raise InputError(
                f"{self.url} has no {MANIFEST_NAME}: check the URL, or copy a corpus folder there"
            ) from error
        # If the corpus at the URL is replaced, it gets another mirror.
        names = hashlib.sha256(self.url.encode()), hashlib.sha256(manifest)
        self.mirror = cache.folder / "-".join(name.hexdigest()[:16] for name in names)
        """The local folder with copies of all files except the tars."""
        write_file(self.mirror / MANIFEST_NAME, manifest)
        self._added = cache.limit_bytes  # So that the cache is measured after the first chunk.

    def copy(self, name: str, *, again: bool = False) -> Path | None:
        """Copies a file into the mirror in chunks; returns None if the corpus has no such file.

        Args:
            name: The file, relative to the corpus.
            again: Copies it even if there is a copy.
        """
        path = self.mirror / name
        if path.is_file() and not again:
            return path
        with self._locked(f"copy {name}"):
            if not path.is_file() or again:
                try:
                    self._copy_in_pieces(name, path)
                except FileNotFoundError:
                    return None
        return path

    def copy_folder(self, name: str) -> None:
        """Copies a folder into the mirror, unless the mirror has a copy with the same manifest.

        The manifest is copied last, so it shows that the copy is complete.
        """
        try:
            manifest = self.fetch(f"{name}/{MANIFEST_NAME}", 0, None)
        except FileNotFoundError:
            return
        sealed = self.mirror / name / MANIFEST_NAME
        with self._locked(f"copy {name}"):
            if sealed.is_file() and sealed.read_bytes() == manifest:
                return
            for path in self._system.ls(f"{self._root}/{name}", detail=False):
                file = path.rstrip("/").rsplit("/", 1)[-1]
                if file != MANIFEST_NAME:
                    self._copy_in_pieces(f"{name}/{file}", self.mirror / name / file)
            write_file(sealed, manifest)

    def _copy_in_pieces(self, name: str, path: Path) -> None:
        size = int(self._system.info(f"{self._root}/{name}")["size"])
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as file:
            for start in range(0, size, CHUNK_BYTES):
                file.write(self.fetch(name, start, min(start + CHUNK_BYTES, size)))

    def fetch(self, name: str, start: int, stop: int | None) -> bytes:
        """Reads bytes of a remote file; retries if the network fails.

        Raises:
            FileNotFoundError: There is no such file.
            InputError: The file could not be read.
        """
        for attempt in range(1, _TRIES + 1):
            try:
                content: bytes = self._system.cat_file(f"{self._root}/{name}", start, stop)
                return content
            except FileNotFoundError:
                raise
            except Exception as error:  # Each protocol raises its own errors.
                if attempt == _TRIES:
                    raise InputError(
                        f"{self.url}/{name}: {type(error).__name__}: {error}; tried {_TRIES} "
                        "times; run the same command again when the storage answers"
                    ) from error
                time.sleep(0.25 * 2**attempt)
        raise AssertionError

    def chunk(self, name: str, number: int, size: int) -> Path:
        """The local file of one chunk of a tar; fetches the chunk if it is not in the cache.

        Args:
            name: The tar.
            number: The number of the chunk, from 0.
            size: The size of the tar in the manifest, in bytes.

        Raises:
            InputError: The tar is missing, shorter than the manifest says, or cannot be read.
        """
        path = self._chunk_path(name, number)
        if path.is_file():
            return path
        with self._locked(path.name):
            if path.is_file():
                return path
            start = number * CHUNK_BYTES
            stop = min(start + CHUNK_BYTES, size)
            try:
                content = self.fetch(name, start, stop)
            except FileNotFoundError as error:
                raise InputError(
                    f"{self.url}/{name} is missing, and the manifest lists it: restore it"
                ) from error
            if len(content) != stop - start:
                raise InputError(
                    f"{self.url}/{name}: only {len(content)} of {stop - start} bytes at byte "
                    f"{start}; restore it from a good copy"
                )
            self._keep(path, content)
        self._make_room(len(content))
        return path

    def _keep(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = part_path(path)
        try:
            part.write_bytes(content)  # No fsync: a reader checks the size and the crc32.
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            remedy = f"{error.strerror}; lower data.cache_gb, or give another data.cache_dir"
            # The disk of one node may be full or broken, so this is not the user's input.
            raise OSError(error.errno, remedy, str(self._cache.folder)) from error

    def has_chunk(self, name: str, number: int) -> bool:
        """Whether a chunk is in the cache."""
        return self._chunk_path(name, number).is_file()

    def drop(self, name: str, number: int) -> None:
        """Removes a chunk from the cache."""
        self._chunk_path(name, number).unlink(missing_ok=True)

    def _chunk_path(self, name: str, number: int) -> Path:
        return self.mirror / f"{name}.{number:06d}.{CHUNK_BYTES}.chunk"

    @contextmanager
    def _locked(self, what: str) -> Iterator[None]:
        self._cache.folder.mkdir(parents=True, exist_ok=True)
        slot = hashlib.sha256(f"{self.url}/{what}".encode()).digest()[0] % _LOCKS
        with (self._cache.folder / f".lock-{slot:02d}").open("w") as lock:
            wait_for_lock(lock)
            yield

    def _make_room(self, added: int) -> None:
        """Shrinks the cache if it is too large; checked after each 1 % of its limit is added."""
        self._added += added
        if self._added * 100 < self._cache.limit_bytes:
            return
        self._added = 0
        with (self._cache.folder / ".lock-room").open("w") as lock:
            wait_for_lock(lock)
            _evict(self._cache)


def _evict(cache: Cache) -> None:
    """Removes the least recently read chunks, down to 90 % of the limit, and unfinished files."""
    for part in cache.folder.glob(f"*/.*{PART_SUFFIX}"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > _STALE_SECONDS:
                part.unlink()
    chunks = []
    for path in cache.folder.glob("*/*.chunk"):
        with suppress(FileNotFoundError):
            stat = path.stat()
            chunks.append((stat.st_mtime_ns, path, stat.st_size))
    excess = sum(size for _, _, size in chunks) - cache.limit_bytes * 9 // 10
    for _, path, size in sorted(chunks):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size


class RemoteFiles:
    """The files of a remote corpus, with the methods that `LocalFiles` has for a local one."""

    def __init__(self, remote: RemoteFolder, sizes: Mapping[str, int]) -> None:
        self.folder = remote.mirror
        self._remote, self._sizes = remote, sizes
        self._pending: dict[tuple[str, int], Future[Any]] = {}
        self._lock = threading.Lock()
        self._fetchers: ThreadPoolExecutor | None = None
        self._owner = os.getpid()

    def read_into(self, name: str, offset: int, content: memoryview) -> None:
        """Fills `content` from byte `offset` of a tar on, through the cache.

        Raises:
            InputError: The tar cannot be read.
        """
        filled = 0
        while filled < len(content):
            number, within = divmod(offset + filled, CHUNK_BYTES)
            count = min(len(content) - filled, CHUNK_BYTES - within)
            if number * CHUNK_BYTES >= self._sizes[name]:
                raise InputError(
                    f"{self._remote.url}/{name}: byte {offset + filled} is beyond the end of the "
                    "tar; restore its index"
                )
            self._read_chunk(name, number, within, content[filled : filled + count])
            filled += count

    def will_need(self, name: str, offset: int, size: int) -> None:
        """Starts to fetch bytes that will be read soon, in the background."""
        for number in range(offset // CHUNK_BYTES, -(-(offset + size) // CHUNK_BYTES)):
            self._prefetch(name, number)

    def drop_cached(self, name: str, offset: int, size: int) -> bool:
        """Drops cached bytes of a tar, because the local copy may be damaged; returns True."""
        for number in range(offset // CHUNK_BYTES, -(-(offset + size) // CHUNK_BYTES)):
            self._remote.drop(name, number)
        return True

    @property
    def name(self) -> str:
        """The name of the corpus in error messages."""
        return self._remote.url

    def fetch_index(self, name: str, *, again: bool = False) -> bool:
        """Copies the index of a tar into the mirror; returns True.

        Raises:
            InputError: The corpus has no such index.
        """
        if self._remote.copy(name, again=again) is None:
            raise InputError(
                f"{self._remote.url}/{name} is missing: a remote corpus needs its indexes; make "
                "them with `bigtrain data index` where the tars are local, and copy them there"
            )
        return True

    def local_file(self, name: str) -> Path:
        """The path of the copy of a small file; copies the file if there is none."""
        self._remote.copy(name)
        return self.folder / name

    def local_folder(self, name: str) -> Path:
        """The path of the copy of a folder of small files; copies them if there are none."""
        self._remote.copy_folder(name)
        return self.folder / name

    def check(self, name: str) -> None:
        """Does nothing: asking a store for thousands of sizes takes longer than the first batch."""

    def close(self) -> None:
        """Stops fetching."""
        if self._fetchers is not None:
            self._fetchers.shutdown(wait=True, cancel_futures=True)
            self._fetchers = None

    def _read_chunk(self, name: str, number: int, within: int, content: memoryview) -> None:
        for _ in range(_TRIES):
            path = self._remote.chunk(name, number, self._sizes[name])
            with suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
                os.utime(file.fileno())  # The least recently read chunks are removed first.
                file.seek(within)
                if file.readinto(content) == len(content):
                    return
                path.unlink(missing_ok=True)  # A crash has truncated it: fetch it again.
        raise InputError(
            f"{path} was removed each time before it could be read: raise data.cache_gb, so that "
            "the cache holds more than a few chunks of 8 MiB for each rank"
        )

    def _prefetch(self, name: str, number: int) -> None:
        key = (name, number)
        with self._lock:
            if key in self._pending or self._remote.has_chunk(name, number):
                return
            if self._fetchers is None or self._owner != os.getpid():
                self._fetchers, self._owner = ThreadPoolExecutor(_FETCHERS), os.getpid()
            # A failure here is not an error: the reader of the chunk tries again, and reports it.
            future = self._fetchers.submit(self._remote.chunk, name, number, self._sizes[name])
            self._pending[key] = future
        future.add_done_callback(lambda _: self._pending.pop(key, None))
