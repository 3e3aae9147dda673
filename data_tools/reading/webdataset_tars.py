"""Reads webdataset tars with text: `.txt` members, or `.json` members with a text field."""

import re
import tarfile
from collections.abc import Iterator
from typing import IO, Any

from data_tools.errors import InputError
from data_tools.reading.byte_streams import open_decompressed
from data_tools.reading.documents import Document, InputFile, Piece, ReadOptions, Skipped, refuse
from data_tools.reading.json_record import JsonRecord
from data_tools.reading.webdataset_rules import group_samples, key_and_suffix

_TEXT, _JSON = "txt", "json"
_FIRST_OF_A_PACK = re.compile(rb"\d{6}-\d{5}\.docs\.npy\0")
_BLOCK_BYTES = 512
_REST_BYTES = 1 << 20


def is_token_tar(head: bytes) -> bool:
    """Whether a tar, by its first bytes, is a token tar of bigtrain, which has no text."""
    return _FIRST_OF_A_PACK.match(head) is not None


def read_tar(piece: Piece, options: ReadOptions) -> Iterator[Document | Skipped]:
    """Reads the samples of a tar: a document is a text member, or else a JSON member.

    Skips links, and members of other kinds by their ending. A member that is too long for a
    document is not read into memory.

    Raises:
        InputError: The tar is damaged, or has an invalid member and `options.on_invalid` is `stop`.
    """
    with open_decompressed(piece.file) as stream:
        tar_stream = _TarStream(stream)
        readable: Any = tar_stream  # Only its `read` is called.
        try:
            with tarfile.open(fileobj=readable, mode="r|*") as tar:
                members = _TextMembers(tar, piece.file, options)
                for key, sample in group_samples(members.contents()):
                    yield from members.left_out()
                    yield from _documents(key, sample, piece.file, options)
                yield from members.left_out()
        except (tarfile.TarError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise _damaged(piece.file, error) from error
        if not tar_stream.is_complete:
            message = (
                f"{piece.file.path} does not end with a tar's end marker: it is truncated, or "
                "several tars were joined"
            )
            yield refuse(options, "tar without an end", place=piece.file.name, message=message)


def tar_text_bytes(file: InputFile) -> int:
    """Adds up the sizes of the members that may be text, from their headers."""
    with open_decompressed(file) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|*") as tar:
                return sum(it.size for it in _headers(tar) if it.isreg() and _may_be_text(it.name))
        except tarfile.TarError as error:
            raise _damaged(file, error) from error


def _damaged(file: InputFile, error: Exception) -> InputError:
    return InputError(
        f"{file.path} is truncated or damaged ({error}): fetch it again, or exclude it"
    )


def _headers(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # Otherwise it keeps all headers.
        yield member


def _ending(name: str) -> str:
    stem, _, ending = name.rpartition("/")[2].lower().rpartition(".")
    return ending if stem else ""


def _may_be_text(name: str) -> bool:
    return _ending(name) in (_TEXT, _JSON) and key_and_suffix(name) is not None


class _TextMembers:
    """Reads the members that may be text, and counts the others."""

    def __init__(self, tar: tarfile.TarFile, file: InputFile, options: ReadOptions) -> None:
        self._tar = tar
        self._file = file
        self._options = options
        self._left_out: list[Skipped] = []

    def contents(self) -> Iterator[tuple[str, bytes | None]]:
        """Yields names and contents, in the order of the tar; None if one is too long."""
        sample, suffixes = "", set[str]()
        for member in _headers(self._tar):
            if reason := _not_text(member):
                self._leave_out(reason, member)
                continue
            key, suffix = key_and_suffix(member.name) or ("", "")
            sample, suffixes = key, (suffixes if key == sample else set())
            if suffix in suffixes:
                self._leave_out_second(member)
                continue
            suffixes.add(suffix)
            is_too_long = member.size > self._options.max_document_bytes
            content = None if is_too_long else self._tar.extractfile(member)
            yield member.name, content.read() if content else None

    def left_out(self) -> Iterator[Skipped]:
        """Yields the members that were skipped since the last call."""
        left_out, self._left_out = self._left_out, []
        yield from left_out

    def _leave_out(self, reason: str, member: tarfile.TarInfo) -> None:
        if not member.isdir():
            target = f" → {member.linkname}" if member.linkname else ""
            self._left_out.append(Skipped(reason, f"{self._file.name} {member.name}{target}"))

    def _leave_out_second(self, member: tarfile.TarInfo) -> None:
        message = (
            f"{self._file.path} has several members {member.name}, and only the first is read: "
            "make the tar again without `tar -r`"
        )
        place = f"{self._file.name} {member.name}"
        reason = "second member of one name in a tar"
        self._left_out.append(refuse(self._options, reason, place=place, message=message))


def _not_text(member: tarfile.TarInfo) -> str | None:
    """The reason why a member is not read; None if it is read."""
    if member.islnk():
        return "hard link in a tar"
    if member.issym():
        return "symbolic link in a tar"
    if not member.isreg():
        return "not a regular file in a tar"
    if not _may_be_text(member.name):
        ending = _ending(member.name)
        return f"{f'.{ending}' if ending else 'without an ending'} in a tar"
    return None


def _documents(
    key: str, sample: dict[str, bytes | None], file: InputFile, options: ReadOptions
) -> Iterator[Document | Skipped]:
    has_text = any(suffix.rpartition(".")[2] == _TEXT for suffix in sample)
    for suffix, content in sample.items():
        place = f"{key}.{suffix}"
        if suffix.rpartition(".")[2] == _TEXT:
            yield _text(content, place, file, options)
        elif has_text:
            yield Skipped(".json beside .txt in a tar", f"{file.name} {place}")
        else:
            yield _json(content, place, file, options)


def _text(
    content: bytes | None, member: str, file: InputFile, options: ReadOptions
) -> Document | Skipped:
    place = f"{file.name} {member}"
    if content is None:
        message = f"{file.path} {member} is {options.too_long}"
        return refuse(options, "too long", place=place, message=message)
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return Skipped("not UTF-8", place)
    return Document(text, place) if text else Skipped("empty", place)


def _json(
    content: bytes | None, member: str, file: InputFile, options: ReadOptions
) -> Document | Skipped:
    record = JsonRecord(
        options, place=f"{file.name} {member}", exact=lambda: f"{file.path} {member}"
    )
    return record.too_long() if content is None else record.parse(content)


class _TarStream:
    """The stream of a tar, which checks at the end that the tar is complete.

    Python's tarfile, and so webdataset, does not notice if a tar was truncated between two members,
    and if several tars were joined, it stops at the first end marker.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._last = b""

    def read(self, size: int = -1) -> bytes:
        """Reads from the stream."""
        content = self._stream.read(size)
        if content:
            self._last = (self._last + content)[-_BLOCK_BYTES:]
        return content

    @property
    def is_complete(self) -> bool:
        """Whether the stream ends with the end marker of a tar and nothing after it."""
        is_complete = not any(self._last)
        while is_complete and (rest := self.read(_REST_BYTES)):
            is_complete = not any(rest)
        return is_complete
