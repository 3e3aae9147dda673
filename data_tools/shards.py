"""Writes one tar of token packs, the same bytes every time. The one module that knows webdataset.

webdataset loads torch when it is imported, so it is imported where it writes.
"""

import io
import json
import zlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.corpus import DOCS_TYPE
from data_tools.files import file_sha256, finish_file, part_path, write_file
from data_tools.index import index_path, render_index, scan_tar
from data_tools.manifest import ShardInfo


@dataclass(slots=True)
class _Pack:
    documents: list[NDArray[Any]] = field(default_factory=list)
    num_tokens: int = 0

    def add(self, document: NDArray[Any]) -> None:
        self.documents.append(document)
        self.num_tokens += len(document)


class ShardWriter:
    """Gathers documents into packs and packs into one tar, which gets its name when finished.

    Nothing is written until there is a first pack, so a shard without documents leaves no file.
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
        self._pack = _Pack()
        self._packs = self._docs = self._tokens = 0
        self._tar: Any = None
        self._stack = ExitStack()

    def add(self, document: NDArray[Any]) -> None:
        """Takes one whole document, its end token included."""
        self._pack.add(document)
        if self._pack.num_tokens >= self._pack_tokens:
            self._flush()

    def finish(self) -> ShardInfo | None:
        """Gives tar and index their final names; None where there was no document."""
        if self._pack.documents:
            self._flush()
        self._stack.close()
        if self._tar is None:
            return None
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
        )

    def _flush(self) -> None:
        if self._tar is None:
            self._tar = self._open_tar()
        key = f"{self._task:06d}-{self._packs:05d}"
        self._tar.write(render_pack(key, self._pack.documents, self._dtype, self._source))
        self._packs += 1
        self._docs += len(self._pack.documents)
        self._tokens += self._pack.num_tokens
        self._pack = _Pack()

    def _open_tar(self) -> Any:
        from webdataset.writer import TarWriter

        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._stack.enter_context(self._part.open("wb"))
        fixed = {"user": "bigtrain", "group": "bigtrain", "mode": 0o644, "mtime": 0}
        return self._stack.enter_context(TarWriter(file, encoder=False, compress=False, **fixed))


def render_pack(
    key: str, documents: list[NDArray[Any]], dtype: np.dtype[Any], source: str
) -> dict[str, Any]:
    """Makes one sample for a tar: tokens `[tokens]`, document starts `[docs]` and their facts."""
    tokens = np.concatenate(documents).astype(dtype)
    starts = np.cumsum([0, *(len(document) for document in documents[:-1])]).astype(DOCS_TYPE)
    facts = {
        "docs": len(documents),
        "docs_crc32": zlib.crc32(starts.tobytes()),
        "source": source,
        "tokens": len(tokens),
        "tokens_crc32": zlib.crc32(tokens.tobytes()),
    }
    return {
        "__key__": key,
        "tokens.npy": _render_array(tokens),
        "docs.npy": _render_array(starts),
        "json": json.dumps(facts, sort_keys=True).encode("utf-8"),
    }


def _render_array(array: NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, array, version=(1, 0))
    return content.getvalue()
