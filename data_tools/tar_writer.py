"""Writes one tar of token packs; equal documents give equal bytes.

The bytes are those that webdataset's `TarWriter` writes, but this module does not load torch.
"""

import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.corpus import DOCS_TYPE
from data_tools.errors import InputError
from data_tools.files import file_sha256, finish_file, part_path, write_file
from data_tools.manifest import ShardInfo
from data_tools.tar_index import index_path, render_index, scan_tar

_BUFFER_BYTES = 1 << 20


@dataclass(slots=True)
class Pack:
    """Some complete documents, and optionally where the sentences of each begin."""

    source: str
    """Where the documents come from; several sources are joined by commas."""
    documents: list[NDArray[Any]] = field(default_factory=list)
    sentences: list[NDArray[Any]] = field(default_factory=list)
    """One array `[sentences]` for each document, as offsets from its start; or no arrays."""
    num_tokens: int = 0


class ShardWriter:
    """Collects documents into packs, and packs into one tar, which is renamed when finished.

    Writes nothing before the first pack is complete, so without documents there is no file.
    As a context manager, it removes its temporary file if the block fails.
    """

    def __init__(
        self, path: Path, *, task: int, dtype: np.dtype[Any], pack_tokens: int, source: str
    ) -> None:
        self._path = path
        self._part = part_path(path)
        self._task = task
        self._dtype = dtype
        self._pack_tokens = pack_tokens
        self._source = source
        self._pack = Pack("")
        self._pack_sources: set[str] = set()
        self._packs = self._docs = self._tokens = self._sents = 0
        self._tar: tarfile.TarFile | None = None
        self._stack = ExitStack()

    def add(
        self,
        document: NDArray[Any],
        *,
        sentences: NDArray[Any] | None = None,
        source: str | None = None,
    ) -> None:
        """Adds one document, including its end-of-document token.

        Args:
            document: Its ids `[tokens]`.
            sentences: Where its sentences start, `[sentences]`; the first is 0. Given for all
                documents of a tar or for none.
            source: The source of the document, if it is not the source of the tar.
        """
        self._pack.documents.append(document)
        self._pack.num_tokens += len(document)
        self._pack_sources.add(source or self._source)
        if sentences is not None:
            self._pack.sentences.append(sentences)
        if self._pack.num_tokens >= self._pack_tokens:
            self._flush()

    def finish(self) -> ShardInfo | None:
        """Gives the tar and its index their final names; returns None if there was no document."""
        if self._pack.documents:
            self._flush()
        if self._tar is None:
            return None
        with _errors_name_file(self._path):
            self._tar.close()
            self._stack.close()
            sha256 = file_sha256(self._part)
            packs = scan_tar(self._part)
            finish_file(self._part, self._path)
            write_file(index_path(self._path), render_index(packs, sha256=sha256))
        return ShardInfo(
            file=self._path.name,
            bytes=self._path.stat().st_size,
            sha256=sha256,
            packs=self._packs,
            docs=self._docs,
            tokens=self._tokens,
            sents=self._sents,
        )

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            # Removed before closing, because closing writes the buffer and the disk may be full.
            self._part.unlink(missing_ok=True)
            try:
                self._stack.close()
            except OSError as same:
                error.add_note(str(same))

    def _flush(self) -> None:
        self._pack.source = ", ".join(sorted(self._pack_sources))
        key = f"{self._task:06d}-{self._packs:05d}"
        with _errors_name_file(self._path):
            tar = self._tar = self._tar or self._open_tar()
            for name, content in render_pack(self._pack, self._dtype).items():
                member = tarfile.TarInfo(f"{key}.{name}")
                member.size, member.mode, member.mtime = len(content), 0o644, 0
                member.uname = member.gname = "bigtrain"
                tar.addfile(member, io.BytesIO(content))
        self._packs += 1
        self._docs += len(self._pack.documents)
        self._tokens += self._pack.num_tokens
        self._sents += sum(map(len, self._pack.sentences))
        self._pack, self._pack_sources = Pack(""), set()

    def _open_tar(self) -> tarfile.TarFile:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._stack.enter_context(self._part.open("wb", buffering=_BUFFER_BYTES))
        return tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)


def check_name(name: str) -> None:
    """Checks the prefix of the names of tars.

    Raises:
        InputError: The prefix has a dot or a slash, or is empty.
    """
    if not name or "." in name or "/" in name:
        raise InputError(f"name={name!r} must be a plain word without dots and slashes")


def render_pack(pack: Pack, dtype: np.dtype[Any]) -> dict[str, bytes]:
    """Makes the members of one pack, in the order of their names.

    `tokens.npy` is `[tokens]`; `docs.npy` and `sents.npy` are the offsets, in tokens of the pack,
    at which each document and each sentence starts.
    """
    tokens = np.concatenate(pack.documents).astype(dtype, copy=False)
    starts = np.cumsum([0, *(len(document) for document in pack.documents[:-1])]).astype(DOCS_TYPE)
    arrays = {"docs": starts, "tokens": tokens}
    if pack.sentences:
        placed = [own + start for own, start in zip(pack.sentences, starts, strict=True)]
        arrays["sents"] = np.concatenate(placed).astype(DOCS_TYPE)
    facts: dict[str, int | str] = {"source": pack.source}
    for name, array in arrays.items():
        facts[name] = len(array)
        facts[f"{name}_crc32"] = zlib.crc32(array.data)
    members = {f"{name}.npy": _render_array(array) for name, array in arrays.items()}
    members["json"] = json.dumps(facts, sort_keys=True).encode("utf-8")
    return dict(sorted(members.items()))


@contextmanager
def _errors_name_file(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        # The error of a full disk does not name the file.
        remedy = f"{error.strerror}: make room, then run the same command again to continue"
        raise OSError(error.errno, remedy, str(path)) from error


def _render_array(array: NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, array, version=(1, 0))
    return content.getvalue()
