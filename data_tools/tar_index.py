"""The index of a tar: at which byte each pack begins, so that a reader can seek to any token.

The index is a JSON file beside its tar. It is computed from the headers in the tar, so it can
always be made again.
"""

import json
import tarfile
import tokenize
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from data_tools.errors import InputError
from data_tools.files import load_json, render_json
from data_tools.manifest import ShardInfo

INDEX_SCHEMA = "bigtrain-index/2"
# What tarfile, json and numpy's header parser raise for a damaged file.
_DAMAGE = (tarfile.TarError, ValueError, TypeError, KeyError, SyntaxError, tokenize.TokenError)
_READABLE_SCHEMAS = ("bigtrain-index/1", INDEX_SCHEMA)  # Version 1 has no sentences.


@dataclass(frozen=True, slots=True)
class PackLocation:
    """One pack: its key, and the byte offsets of its tokens, documents and sentences in the tar."""

    key: str
    tokens_offset: int
    num_tokens: int
    tokens_crc32: int
    docs_offset: int
    num_docs: int
    docs_crc32: int
    sents_offset: int = 0
    num_sents: int = 0
    """0 if the corpus was made without sentence starts."""
    sents_crc32: int = 0


def index_path(tar: Path) -> Path:
    """Names the index of a tar: `tokens-000000.tar` has `tokens-000000.index.json`."""
    return tar.with_suffix(".index.json")


def render_index(packs: list[PackLocation], *, sha256: str) -> bytes:
    """Makes the bytes of the index file of a tar; `sha256` is the hash of the tar."""
    rows = [asdict(pack) for pack in packs]
    return render_json({"schema": INDEX_SCHEMA, "tar_sha256": sha256, "packs": rows})


def scan_tar(tar: Path) -> list[PackLocation]:
    """Finds the packs of a tar from its headers, without reading the tokens.

    Raises:
        InputError: The file is not a complete tar of packs.
    """
    parts: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(tar, "r:") as archive, tar.open("rb") as file:
            for member in archive:
                key, _, kind = member.name.partition(".")
                parts.setdefault(key, {}).update(_member_facts(kind, member, file))
        return [PackLocation(key=key, **facts) for key, facts in parts.items()]
    except _DAMAGE as error:
        raise InputError(
            f"{tar} is not a complete tar of token packs ({error}): restore it or shard the text "
            "again"
        ) from error


def load_index(tar: Path, shard: ShardInfo) -> list[PackLocation]:
    """Reads the index beside a tar; if there is none, makes it in memory.

    Raises:
        InputError: The index belongs to another version of the tar, or its counts are wrong.
    """
    path = index_path(tar)
    if path.is_file():
        packs = _read_index(path, shard)
        if not _adds_up(packs, shard):
            raise InputError(_stale(path))
        return packs
    packs = scan_tar(tar)
    if not _adds_up(packs, shard):
        raise InputError(
            f"{tar} has other packs than the manifest says: check it with `bigtrain data verify "
            f"{tar.parent}`, then restore it or shard the text again"
        )
    return packs


def _adds_up(packs: list[PackLocation], shard: ShardInfo) -> bool:
    return len(packs) == shard.packs and sum(pack.num_tokens for pack in packs) == shard.tokens


def _read_index(path: Path, shard: ShardInfo) -> list[PackLocation]:
    values = load_json(path)
    try:
        if values["schema"] not in _READABLE_SCHEMAS or values["tar_sha256"] != shard.sha256:
            raise InputError(_stale(path))
        rows = values["packs"]
        if any(
            type(value) is not int for row in rows for key, value in row.items() if key != "key"
        ):
            raise InputError(_stale(path))
        return [PackLocation(**row) for row in rows]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(_stale(path)) from error


def _stale(path: Path) -> str:
    return (
        f"{path} does not belong to its tar, as the manifest lists it: "
        f"make it again with `bigtrain data index {path.parent}`"
    )


def _member_facts(kind: str, member: tarfile.TarInfo, file: IO[bytes]) -> dict[str, int]:
    file.seek(member.offset_data)
    match kind:
        case "tokens.npy":
            offset, count = _read_array_header(file)
            return {"tokens_offset": offset, "num_tokens": count}
        case "docs.npy":
            offset, count = _read_array_header(file)
            return {"docs_offset": offset, "num_docs": count}
        case "sents.npy":
            offset, count = _read_array_header(file)
            return {"sents_offset": offset, "num_sents": count}
        case "json":
            facts = json.loads(file.read(member.size))
            return {name: crc32 for name, crc32 in facts.items() if name.endswith("_crc32")}
        case _:  # A member that a later version may add.
            return {}


def _read_array_header(file: IO[bytes]) -> tuple[int, int]:
    np.lib.format.read_magic(file)
    shape, _, _ = np.lib.format.read_array_header_1_0(file)
    return file.tell(), shape[0]
