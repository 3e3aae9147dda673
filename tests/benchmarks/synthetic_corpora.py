"""Makes corpora of any size without text: random tokens, or sparse files of zeros."""

import zlib
from pathlib import Path

import numpy as np

from data_tools.corpus import DOCS_TYPE
from data_tools.files import write_file
from data_tools.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardInfo,
    TokenizerInfo,
    render_manifest,
    total_of,
)
from data_tools.tar_index import PackLocation, index_path, render_index
from data_tools.tar_writer import ShardWriter
from data_tools.tokenizer import SpecialIds

PACK_TOKENS = 1 << 20
VOCAB_SIZE = 32_000
SPECIAL = SpecialIds(pad=0, bos=1, eos=2, unk=3, cls=4, sep=5, mask=6)
_SHARD_PACKS = 64
_DOCUMENT = 1000


def make_random_corpus(folder: Path, *, num_tokens: int) -> Path:
    """Makes a corpus of random documents of 1,000 tokens, in the format of `data shard`."""
    random = np.random.default_rng(0)
    shards = []
    for number in range(-(-num_tokens // (_SHARD_PACKS * PACK_TOKENS))):
        writer = ShardWriter(
            folder / f"tokens-{number:06d}.tar",
            task=number,
            dtype=np.dtype("<u2"),
            pack_tokens=PACK_TOKENS,
            source="made",
        )
        left = min(num_tokens - number * _SHARD_PACKS * PACK_TOKENS, _SHARD_PACKS * PACK_TOKENS)
        for _ in range(left // _DOCUMENT):
            document = random.integers(71, VOCAB_SIZE, _DOCUMENT, dtype=np.int32)
            document[-1] = SPECIAL.eos
            writer.add(document)
        shards.append(writer.finish())
    return _seal(folder, [shard for shard in shards if shard])


def make_sparse_corpus(folder: Path, *, num_bytes: int) -> Path:
    """Makes a corpus of zeros in sparse files, which takes no disk space, with correct indexes."""
    folder.mkdir(parents=True)
    size = PACK_TOKENS * 2
    crc32, docs = zlib.crc32(bytes(size)), zlib.crc32(np.zeros(1, DOCS_TYPE).tobytes())
    packs = [
        PackLocation(f"{pack:05d}", pack * (size + 4096) + 640, PACK_TOKENS, crc32, 0, 1, docs)
        for pack in range(_SHARD_PACKS)
    ]
    shards = []
    for number in range(num_bytes // (_SHARD_PACKS * size)):
        tar, sha256 = folder / f"tokens-{number:06d}.tar", f"{number:064d}"
        with tar.open("wb") as file:
            file.truncate(_SHARD_PACKS * (size + 4096))
        index_path(tar).write_bytes(render_index(packs, sha256=sha256))
        shards.append(
            ShardInfo(
                file=tar.name,
                bytes=_SHARD_PACKS * (size + 4096),
                sha256=sha256,
                packs=_SHARD_PACKS,
                docs=_SHARD_PACKS,
                tokens=_SHARD_PACKS * PACK_TOKENS,
            )
        )
    return _seal(folder, shards)


def _seal(folder: Path, shards: list[ShardInfo]) -> Path:
    manifest = Manifest(
        name="tokens",
        split="train",
        tokenizer=TokenizerInfo(sha256="0" * 64, vocab_size=VOCAB_SIZE, special=SPECIAL),
        dtype="uint16",
        shards=tuple(shards),
        totals=total_of(tuple(shards)),
        inputs=(),
        tool_version="made",
        seed=0,
    )
    write_file(folder / MANIFEST_NAME, render_manifest(manifest))
    return folder
