"""webdataset tars with text in them: `.txt` members, or `.json` members with a text field.

Knows webdataset, which imports torch; so it is imported where a tar is read, and nowhere else.
"""

import re
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from data_tools.errors import InputError
from data_tools.reading.records import JsonRecord
from data_tools.reading.streams import open_unpacked
from data_tools.reading.values import Document, InputFile, Piece, ReadOptions, Skipped, refuse

_TEXT, _JSON = "txt", "json"
_FIRST_OF_A_PACK = re.compile(rb"\d{6}-\d{5}\.docs\.npy\0")
_BLOCK_BYTES = 512
_REST_BYTES = 1 << 20


def is_token_tar(head: bytes) -> bool:
    """Whether a tar that begins so is one of this project's, which holds tokens and no text."""
    return _FIRST_OF_A_PACK.match(head) is not None


def read_tar(piece: Piece, options: ReadOptions) -> Iterator[Document | Skipped]:
    """Reads the samples of a tar: a text member is a document, or else a JSON member.

    Members of other kinds are left out, each with its ending.
    """
    from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_iterator

    members = _Members(piece.file.name, has_key=lambda name: base_plus_ext(name)[0] is not None)
    with open_unpacked(piece.file) as stream:
        watched = _Watched(stream)
        try:
            files = tar_file_iterator(watched, select_files=members.select)
            for sample in group_by_keys({**file, "__url__": ""} for file in files):
                yield from members.left_out()
                yield from _documents(sample, piece.file, options)
        except (tarfile.TarError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{piece.file.path} is truncated or damaged ({error.args[0]}): "
                "fetch it again, or exclude it"
            ) from error
        yield from members.left_out()
        if not watched.is_whole:
            message = (
                f"{piece.file.path} does not stop with a tar's end mark: it is truncated, or "
                "several tars were joined"
            )
            yield refuse(options, "tar without an end", place=piece.file.name, message=message)


def tar_text_bytes(file: InputFile) -> int:
    """Says how many bytes the members that may be text have, from their headers alone."""
    with open_unpacked(file) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                return sum(it.size for it in tar if it.isreg() and _kind(it.name))
        except tarfile.TarError as error:
            raise InputError(
                f"{file.path} is truncated or damaged ({error}): fetch it again, or exclude it"
            ) from error


def _kind(name: str) -> str | None:
    stem, _, ending = name.rpartition("/")[2].lower().rpartition(".")
    return ending if stem and ending in (_TEXT, _JSON) else None


def _ending(name: str) -> str:
    stem, _, ending = name.rpartition("/")[2].lower().rpartition(".")
    return f".{ending}" if stem else "without an ending"


class _Members:
    """Chooses the members that may be text and keeps count of the others."""

    def __init__(self, tar: str, *, has_key: Callable[[str], bool]) -> None:
        self._tar = tar
        self._has_key = has_key
        self._passed: list[str] = []

    def select(self, name: str) -> bool:
        """Whether a member is read."""
        if _kind(name) and self._has_key(name):
            return True
        self._passed.append(name)
        return False

    def left_out(self) -> Iterator[Skipped]:
        """Gives those that were passed over since the last time."""
        names, self._passed = self._passed, []
        for name in names:
            yield Skipped(f"{_ending(name)} in a tar", f"{self._tar} {name}")


def _documents(
    sample: dict[str, Any], file: InputFile, options: ReadOptions
) -> Iterator[Document | Skipped]:
    members = {name: it for name, it in sample.items() if not name.startswith("__")}
    has_text = any(name.rpartition(".")[2] == _TEXT for name in members)
    for ending, content in members.items():
        place = f"{sample['__key__']}.{ending}"
        if ending.rpartition(".")[2] == _TEXT:
            yield _text(content, place, file, options)
        elif has_text:
            yield Skipped(".json beside .txt in a tar", f"{file.name} {place}")
        else:
            yield _json(content, place, file, options)


def _text(content: bytes, member: str, file: InputFile, options: ReadOptions) -> Document | Skipped:
    place = f"{file.name} {member}"
    if len(content) > options.max_document_bytes:
        message = f"{file.path} {member} is {options.too_long}"
        return refuse(options, "too long", place=place, message=message)
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return Skipped("not UTF-8", place)
    return Document(text, place) if text else Skipped("empty", place)


def _json(content: bytes, member: str, file: InputFile, options: ReadOptions) -> Document | Skipped:
    record = JsonRecord(
        options, place=f"{file.name} {member}", exact=lambda: f"{file.path} {member}"
    )
    return record.too_long() if len(content) > options.max_document_bytes else record.parse(content)


class _Watched:
    """A stream that a tar is read from; knows in the end whether all of it was taken in.

    Python's tarfile, and so webdataset, takes a tar that was cut between two members for whole, and
    stops at the first end mark where several tars were joined.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._last = b""

    def read(self, size: int = -1) -> bytes:
        """Reads as the stream does."""
        content = self._stream.read(size)
        if content:
            self._last = (self._last + content)[-_BLOCK_BYTES:]
        return content

    @property
    def is_whole(self) -> bool:
        """Whether the stream stops with the end mark of a tar, and only with that."""
        is_whole = not any(self._last)
        while is_whole and (rest := self.read(_REST_BYTES)):
            is_whole = not any(rest)
        return is_whole
