"""Finds every fault of one tar of token packs, from headers to ids, with its byte offset."""

import errno
import io
import json
import os
import tarfile
import tokenize
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_tools.corpus import DOCS_TYPE
from data_tools.errors import InputError
from data_tools.manifest import Manifest, ShardInfo
from data_tools.tar_index import PackLocation, index_path, load_index

Level = Literal["header", "crc", "full"]

SHARD_AGAIN = "run the same `bigtrain data shard` again"
REMEDY = f"restore it from a good copy, or delete it and {SHARD_AGAIN}"
"""A job checks only the size of a tar that it has finished, so a damaged one must be deleted."""
REMEDY_IF_MISSING = f"restore it from a good copy, or {SHARD_AGAIN}"

_Span = tuple[int, int]  # A byte offset in the file, and a length.

_BROKEN_HEADER = (ValueError, TypeError, KeyError, SyntaxError, tokenize.TokenError)
_BLOCK = tarfile.BLOCKSIZE
_ARRAY_HEADER_BYTES = 4096  # Far more than the header of an array with one axis needs.


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a corpus, and how to repair it."""

    file: str
    what: str
    remedy: str = REMEDY
    pack: str | None = None
    offset: int | None = None
    """The byte offset in the file."""

    @property
    def line(self) -> str:
        """The fault in one line."""
        pack = f" pack {self.pack}:" if self.pack is not None else ""
        location = f" byte {self.offset}:" if self.offset is not None else ""
        return f"{self.file}:{pack}{location} {self.what}; {self.remedy}"


def check_tar(tar: Path, manifest: Manifest, info: ShardInfo, level: Level) -> list[Fault]:
    """Finds every fault of a tar and of the index beside it.

    Args:
        tar: The file.
        manifest: The corpus it belongs to.
        info: The entry of this tar in the manifest.
        level: `header` reads only headers and indexes; the other levels read every pack.

    Raises:
        OSError: The file is missing or cannot be read.
    """
    with tar.open("rb") as file:
        return _TarCheck(file.fileno(), manifest, info, level).run(tar)


class _TarCheck:
    """Reads one tar header by header, so that members after a damaged header are checked too."""

    def __init__(self, file: int, manifest: Manifest, info: ShardInfo, level: Level) -> None:
        self._file = file
        self._size = os.fstat(file).st_size
        self._manifest = manifest
        self._info = info
        self._level = level
        self._faults: list[Fault] = []

    def run(self, tar: Path) -> list[Fault]:
        if self._size != self._info.bytes:
            self._add(f"has {self._size} bytes, not the manifest's {self._info.bytes}")
        packs = self._walk()
        is_walked = not self._faults
        found = [self._check_pack(key, members, is_walked) for key, members in packs.items()]
        locations = [location for location in found if location]
        is_complete = is_walked and len(locations) == len(packs)
        if not is_complete or self._check_counts(locations):
            self._check_index(tar, locations if is_complete else None)
        return self._faults

    def _add(self, what: str, key: str | None = None, offset: int | None = None) -> None:
        self._faults.append(Fault(self._info.file, what, pack=key, offset=offset))

    def _walk(self) -> dict[str, dict[str, _Span]]:
        packs: dict[str, dict[str, _Span]] = {}
        position: int | None = 0
        while position is not None and position + _BLOCK <= self._size:
            block = os.pread(self._file, _BLOCK, position)
            if block.count(0) == _BLOCK:
                return packs
            header = _parse_header(block)
            if header is None:
                self._add("the header of a tar member is damaged", offset=position)
                position = self._find_header(position + _BLOCK)
                continue
            start = position + _BLOCK
            key, _, kind = header.name.partition(".")
            if start + header.size > self._size:
                self._add(f"the file ends here, inside {kind}", key, self._size)
                return packs
            packs.setdefault(key, {})[kind] = (start, header.size)
            position = start + -(-header.size // _BLOCK) * _BLOCK
        if position is not None:
            self._add("the file ends here, without the end marker of a tar", offset=self._size)
        return packs

    def _find_header(self, start: int) -> int | None:
        for position in range(start, self._size, _BLOCK):
            if _parse_header(os.pread(self._file, _BLOCK, position)):
                return position
        return None

    def _check_pack(
        self, key: str, members: dict[str, _Span], is_walked: bool
    ) -> PackLocation | None:
        missing = {"tokens.npy", "docs.npy", "json"} - set(members)
        if missing:
            if is_walked:  # Otherwise a damaged header was reported already.
                self._add(f"there is no {' and no '.join(sorted(missing))}", key)
            return None
        names = [name for name in ("tokens", "docs", "sents") if f"{name}.npy" in members]
        spans = {name: self._read_span(key, name, members[f"{name}.npy"]) for name in names}
        facts = self._read_facts(key, members["json"])
        values: dict[str, int] = {}
        for name, span in spans.items():
            if span is None or facts is None:
                return None
            if facts.get(name, span[1]) != span[1] or f"{name}_crc32" not in facts:
                self._add(f"json disagrees with the {span[1]} {name}", key, members["json"][0])
                return None
            values[f"{name}_offset"], values[f"num_{name}"] = span
            values[f"{name}_crc32"] = facts[f"{name}_crc32"]
        location = PackLocation(key=key, **values)
        if self._level != "header":
            self._check_content(location)
        return location

    def _read_facts(self, key: str, span: _Span) -> dict[str, Any] | None:
        try:
            facts = json.loads(self._read(*span))
        except ValueError:
            facts = None
        if not isinstance(facts, dict):
            self._add("json is damaged", key, span[0])
            return None
        return facts

    def _read_span(self, key: str, name: str, span: _Span) -> _Span | None:
        """The byte offset of the values of an array, and how many there are."""
        start, size = span
        dtype = self._manifest.token_type if name == "tokens" else DOCS_TYPE
        header = io.BytesIO(self._read(start, min(size, _ARRAY_HEADER_BYTES)))
        try:
            np.lib.format.read_magic(header)
            shape, _, found = np.lib.format.read_array_header_1_0(header)
        except _BROKEN_HEADER:
            self._add(f"the header of {name}.npy is damaged", key, start)
            return None
        expected = ((size - header.tell()) // dtype.itemsize,)
        if found != dtype or shape != expected:
            self._add(
                f"the header of {name}.npy says {found}{list(shape)}, "
                f"and not {dtype}{list(expected)}",
                key,
                start,
            )
            return None
        return start + header.tell(), shape[0]

    def _check_content(self, location: PackLocation) -> None:
        dtype = self._manifest.token_type
        key = location.key
        tokens = self._load(
            key, "tokens", dtype, location.tokens_offset, location.num_tokens, location.tokens_crc32
        )
        docs = self._load(
            key, "docs", DOCS_TYPE, location.docs_offset, location.num_docs, location.docs_crc32
        )
        sents = self._load(
            key, "sents", DOCS_TYPE, location.sents_offset, location.num_sents, location.sents_crc32
        )
        vocab_size = self._manifest.tokenizer.vocab_size
        if tokens is not None and int(tokens.max(initial=0)) >= vocab_size:
            first = int(np.argmax(tokens >= vocab_size))
            what = f"id {tokens[first]} is outside the vocabulary of {vocab_size}"
            self._add(what, key, location.tokens_offset + first * dtype.itemsize)
        docs = self._check_starts(key, "document", docs, location.docs_offset, location.num_tokens)
        if tokens is not None and docs is not None:
            self._check_ends(location, tokens, docs)
        if location.num_sents:
            sents = self._check_starts(
                key, "sentence", sents, location.sents_offset, location.num_tokens
            )
            if sents is not None and docs is not None and not np.isin(docs, sents).all():
                self._add("a document starts inside a sentence", key, location.sents_offset)

    def _check_starts(
        self, key: str, name: str, starts: NDArray[Any] | None, offset: int, num_tokens: int
    ) -> NDArray[Any] | None:
        if starts is None:
            return None
        # The first start must be 0, each start greater than the one before, the last inside.
        steps = np.diff(starts, prepend=-1, append=num_tokens)
        wrong = (steps < 1) | (np.arange(len(steps)) == 0) & (steps != 1)
        if not wrong.any():
            return starts
        first = min(int(np.argmax(wrong)), max(0, len(starts) - 1))
        what = (
            f"the start of {name} {first} is wrong: starts must begin with 0 and increase, "
            "within the pack"
        )
        self._add(what, key, offset + first * DOCS_TYPE.itemsize)
        return None

    def _check_ends(self, location: PackLocation, tokens: NDArray[Any], docs: NDArray[Any]) -> None:
        eos = self._manifest.tokenizer.special.eos
        found = np.flatnonzero(tokens == eos)
        expected = np.append(docs[1:], location.num_tokens) - 1
        if np.array_equal(found, expected):
            return
        wrong = np.setxor1d(found, expected, assume_unique=True)
        number = int(np.searchsorted(docs, wrong[0], side="right")) - 1
        name = f"eos (id {eos})"
        how = f"does not end with {name}" if wrong[0] in expected else f"has {name} before its end"
        what = f"document {number} {how}; {len(wrong)} such places"
        self._add(what, location.key, location.tokens_offset + int(wrong[0]) * tokens.itemsize)

    def _load(
        self, key: str, name: str, dtype: np.dtype[Any], offset: int, count: int, crc32: int
    ) -> NDArray[Any] | None:
        content = self._read(offset, count * dtype.itemsize)
        if zlib.crc32(content) != crc32:
            what = f"the crc32 of {name} is {zlib.crc32(content)}, not {crc32}"
            self._add(what, key, offset)
            return None
        return np.frombuffer(content, dtype=dtype)

    def _read(self, offset: int, size: int) -> bytes:
        content = os.pread(self._file, size, offset)
        while len(content) < size:  # One call reads at most 2 GiB.
            more = os.pread(self._file, size - len(content), offset + len(content))
            if not more:
                raise OSError(errno.EIO, "the file shrank while it was read")
            content += more
        return content

    def _check_counts(self, locations: list[PackLocation]) -> bool:
        info = self._info
        found = {
            "packs": len(locations),
            "docs": sum(location.num_docs for location in locations),
            "tokens": sum(location.num_tokens for location in locations),
            "sents": sum(location.num_sents for location in locations),
        }
        wrong = {name: count for name, count in found.items() if count != getattr(info, name)}
        for name, count in wrong.items():
            self._add(f"has {count} {name}, and the manifest says {getattr(info, name)}")
        return not wrong

    def _check_index(self, tar: Path, locations: list[PackLocation] | None) -> None:
        path = index_path(tar)
        if not path.is_file():  # A reader makes it in memory.
            return
        try:
            is_good = load_index(tar, self._info) == locations or locations is None
        except (InputError, TypeError):
            is_good = False
        if not is_good:
            remedy = f"make it again with `bigtrain data index {tar.parent}`"
            self._faults.append(Fault(path.name, "does not belong to its tar", remedy))


def _parse_header(block: bytes) -> tarfile.TarInfo | None:
    if block[257:262] != b"ustar":
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
