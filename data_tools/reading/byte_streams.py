"""Opens local files, URLs (fsspec) and the output of commands as byte streams; decompresses."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from data_tools.errors import InputError
from data_tools.reading.documents import InputFile
from data_tools.reading.file_formats import compression_by_content
from data_tools.reading.webdataset_rules import open_command

_BUFFER_BYTES = 1 << 20
_COMPRESSED_BLOCK_BYTES = 1 << 16
# A compressed block of four bytes may expand to 128 KiB, so this much gives at most 32 MiB.
_ZSTD_INPUT_BYTES = 1 << 10
# The names of a stamp in S3, Google, Azure, HTTP, local disks and fsspec's memory file system, the
# most reliable first.
_STAMP_KEYS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
_ZSTD_MAX_WINDOW = 1 << 31  # The window of `zstd --long=31`.
_COMMAND = "pipe:"
_STATUS_OF_BROKEN_PIPE = (-13, 141)  # From the process itself, and from a shell.
DECOMPRESS_COMMANDS = {"gzip": "gzip -d", "zstd": "zstd -d", "xz": "xz -d", "bzip2": "bzip2 -d"}
"""The commands that decompress a file."""


def is_url(path: str) -> bool:
    """Whether a path is not local, but a URL for fsspec or a command."""
    return "://" in path or is_command(path)


def is_command(path: str) -> bool:
    """Whether a path is a command whose output is read, in webdataset's notation: `pipe:…`."""
    return path.startswith(_COMMAND)


def file_system(url: str) -> tuple[Any, str]:
    """Finds the fsspec file system of a URL, and the path in it.

    Raises:
        InputError: The protocol is unknown, or the package for it is not installed.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"{url} cannot be opened: {error}") from error
    return system, path


def size_and_stamp(url: str, info: dict[str, Any] | None = None) -> tuple[int, str]:
    """The size of a file at a URL, and a stamp that changes when the file changes.

    Args:
        url: The file.
        info: What its file system reported about it; by default the file system is queried.
    """
    if info is None or info.get("size") is None:
        system, path = file_system(url)
        system.invalidate_cache()
        info = system.info(path)
    # A listing and a query for one file may return different keys, so only one value is compared.
    values = (info[key] for key in _STAMP_KEYS if info.get(key) is not None)
    return int(info["size"] or 0), _as_text(next(values, ""))


def _as_text(stamp: Any) -> str:
    # The same time may be a number in a listing and a date in a query for one file.
    seconds = stamp.timestamp() if isinstance(stamp, datetime) else stamp
    return f"{seconds:.3f}" if isinstance(seconds, int | float) else str(seconds)


def check_unchanged(file: "InputFile") -> None:
    """Checks that a file has not changed since the job was planned.

    Raises:
        InputError: The file has changed or does not exist any more.
    """
    if is_command(file.path):
        return  # Its output has neither a size nor a time.
    try:
        if is_url(file.path):
            now = size_and_stamp(file.path)
        else:
            stat = Path(file.path).stat()
            now = (stat.st_size, str(stat.st_mtime_ns))
    except FileNotFoundError:
        now = None
    if now != (file.bytes, file.stamp):
        raise InputError(
            f"{file.path} changed while the job ran: put the old file back and run the same "
            "command again, or start again in another folder"
        )


@contextmanager
def open_file(file: "InputFile") -> Iterator[IO[bytes]]:
    """Opens a file without decompressing it; the stream can seek, except that of a command."""
    if is_command(file.path):
        with open_command(file.path) as output:
            output.ignore_errors = True  # Its error message is a Python representation.
            try:
                yield output.stream
            except InputError as error:  # The cause may be that the command failed.
                _check_status(file, output)
                raise error
        # Not reached if the reader stops early; then the command ends with an error.
        _check_status(file, output)
    elif is_url(file.path):
        system, path = file_system(file.path)
        with system.open(path, "rb") as raw:
            yield raw
    else:
        with Path(file.path).open("rb", buffering=_BUFFER_BYTES) as stream:
            yield stream


def _check_status(file: "InputFile", output: Any) -> None:
    output.close()
    if output.status not in (0, *_STATUS_OF_BROKEN_PIPE):
        raise InputError(f"{file.path} ended with status {output.status}: correct the command")


@contextmanager
def open_decompressed(file: "InputFile") -> Iterator[io.BufferedReader]:
    """Opens the content of a file; a compressed file is decompressed while it is read.

    Raises:
        InputError: While reading, if the file is truncated or damaged.
    """
    with open_file(file) as raw, refuse_damage(file):
        yield decompress(file, raw)


def decompress(file: "InputFile", raw: IO[bytes]) -> io.BufferedReader:
    """Wraps `raw`, a stream of the bytes of a file, in a stream of its decompressed content."""
    compression = file.format.compression
    if is_command(file.path) and isinstance(raw, io.BufferedReader):
        compression = compression_by_content(raw.peek(8))
    elif compression and not file.bytes:
        raise EOFError("it is empty")
    inside: Any
    match compression:
        case "gzip":
            inside = gzip.GzipFile(fileobj=raw)
        case "zstd":
            inside = _ZstdStream(raw)
        case "xz":
            inside = _CompressedStreams(raw, lzma.LZMADecompressor, padding_bytes=4)
        case "bzip2":
            inside = _CompressedStreams(raw, bz2.BZ2Decompressor, padding_bytes=1)
        case None:
            inside = raw
    if isinstance(inside, io.BufferedReader):
        return inside
    return io.BufferedReader(inside, _BUFFER_BYTES)


def read_head(file: "InputFile", size: int) -> bytes:
    """Reads the first bytes of the content of a file.

    Raises:
        InputError: The file is damaged.
    """
    with open_decompressed(file) as stream:
        return stream.read(size)


def check_not_compressed(file: "InputFile") -> None:
    """Checks that a Parquet or Arrow file is not compressed, because it is read at many offsets.

    Raises:
        InputError: The file is compressed.
    """
    if file.compressed:
        raise InputError(
            f"{file.path} is compressed, which is not supported for its kind: decompress it first "
            f"({DECOMPRESS_COMMANDS[file.format.compression or 'gzip']}), or exclude it"
        )


@contextmanager
def refuse_damage(file: "InputFile") -> Iterator[None]:
    """Converts the error that a library raises for a damaged file into an `InputError`."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if getattr(error, "errno", None) is not None:  # From the disk, not from a library.
            raise
        raise InputError(
            f"{file.path} is truncated or damaged ({error}): fetch it again, or exclude it"
        ) from error


class _CompressedStreams(io.RawIOBase):
    """Consecutive xz or bzip2 streams, decompressed step by step.

    Python's own readers silently stop at bytes after a stream that are not another stream. Here
    such bytes raise an error, except zeros, which are padding.
    """

    def __init__(
        self,
        raw: IO[bytes],
        begin: Callable[[], lzma.LZMADecompressor | bz2.BZ2Decompressor],
        *,
        padding_bytes: int,
    ) -> None:
        self._raw = raw
        self._begin = begin
        self._padding_bytes = padding_bytes
        self._decompressor = begin()
        self._compressed = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._decompressor.eof or self._find_next():
            compressed = b""
            if self._decompressor.needs_input:
                compressed = self._compressed or self._raw.read(_COMPRESSED_BLOCK_BYTES)
                self._compressed = b""
                if not compressed:
                    raise EOFError("the file ends inside a compressed stream")
            if content := self._decompressor.decompress(compressed, len(buffer)):
                buffer[: len(content)] = content
                return len(content)
        return 0

    def _find_next(self) -> bool:
        """Goes to the next stream after one that has ended; returns False if there is none."""
        zeros, compressed = 0, self._decompressor.unused_data or self._compressed
        while True:
            rest = compressed.lstrip(b"\0")
            zeros += len(compressed) - len(rest)
            if rest or not (compressed := self._raw.read(_COMPRESSED_BLOCK_BYTES)):
                break
        if zeros % self._padding_bytes:
            raise EOFError(f"{zeros} zero bytes after a compressed stream")
        self._compressed = rest
        if rest:
            self._decompressor = self._begin()
        return bool(rest)


class _ZstdStream(io.RawIOBase):
    """Consecutive zstandard frames, decompressed step by step; EOFError if one is incomplete."""

    def __init__(self, raw: IO[bytes]) -> None:
        import zstandard

        self._raw = raw
        self._library: Any = zstandard
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW)
        self._frame: Any = None
        self._compressed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if not self._decompress_more():
                return 0
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _decompress_more(self) -> bool:
        compressed = self._compressed or self._raw.read(_ZSTD_INPUT_BYTES)
        self._compressed = b""
        if not compressed:
            if self._frame is not None:
                raise EOFError("the file ends inside a zstd frame")
            return False
        self._frame = self._frame or self._decompressor.decompressobj()
        try:
            self._ready = memoryview(self._frame.decompress(compressed))
        except self._library.ZstdError as error:
            raise EOFError(str(error)) from error
        if self._frame.eof:
            self._compressed, self._frame = self._frame.unused_data, None
        return True
