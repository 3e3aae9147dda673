"""Writes corpora of given documents and sentences, for tests of sample tables."""

import io
import json
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.corpus import open_corpus
from data_tools.files import file_sha256, write_file
from data_tools.manifest import (
    Manifest,
    ShardInfo,
    TokenizerInfo,
    render_manifest,
    total_of,
)
from data_tools.samples.sample_table import SampleMode, SampleTable, Segments, load_sample_table
from data_tools.tar_index import index_path, render_index, scan_tar
from data_tools.tokenizer import SpecialIds

EOS = 2
SPECIAL = SpecialIds(pad=0, bos=1, eos=EOS, unk=3, cls=4, sep=5, mask=6)
FIRST_WORD = 71
VOCAB_SIZE = 30_000
LENGTH = 64
"""Tokens of a sample, where a test does not say otherwise."""

Document = Sequence[Sequence[int]]
"""Sentences of tokens; the end of the document is added."""


def write_corpus(
    folder: Path, documents: Sequence[Document], *, pack_documents: int = 5, sentences: bool = True
) -> Path:
    """Writes a corpus of one tar."""
    folder.mkdir(parents=True)
    tar = folder / "tokens-000000.tar"
    num_sentences = 0
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, first in enumerate(range(0, len(documents), pack_documents)):
            members = render_pack(documents[first : first + pack_documents], sentences=sentences)
            num_sentences += json.loads(members["json"]).get("sents", 0)
            for kind, content in members.items():
                member = tarfile.TarInfo(f"000000-{number:05d}.{kind}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    packs, sha256 = scan_tar(tar), file_sha256(tar)
    write_file(index_path(tar), render_index(packs, sha256=sha256))
    shard = ShardInfo(
        file=tar.name,
        bytes=tar.stat().st_size,
        sha256=sha256,
        packs=len(packs),
        docs=len(documents),
        tokens=sum(pack.num_tokens for pack in packs),
        sents=num_sentences,
    )
    manifest = Manifest(
        name="tokens",
        split="train",
        tokenizer=TokenizerInfo(sha256="0" * 64, vocab_size=VOCAB_SIZE, special=SPECIAL),
        dtype="uint16",
        shards=(shard,),
        totals=total_of((shard,)),
        inputs=(),
        tool_version="test",
        seed=0,
    )
    write_file(folder / "manifest.json", render_manifest(manifest))
    return folder


def render_pack(documents: Sequence[Document], *, sentences: bool) -> dict[str, bytes]:
    """Returns the tar members of one pack."""
    tokens, docs, sents = [], [], []
    for document in documents:
        docs.append(len(tokens))
        for sentence in document or [[]]:
            sents.append(len(tokens))
            tokens += sentence
        tokens.append(EOS)
    arrays = {
        "tokens": np.array(tokens, dtype="<u2"),
        "docs": np.array(docs, dtype="<i8"),
        **({"sents": np.array(sents, dtype="<i8")} if sentences else {}),
    }
    facts = {f"{kind}_crc32": zlib.crc32(array.tobytes()) for kind, array in arrays.items()}
    facts |= {kind: len(array) for kind, array in arrays.items()}
    return {
        **{f"{kind}.npy": _render_array(array) for kind, array in arrays.items()},
        "json": json.dumps(facts).encode(),
    }


def random_documents(
    count: int, *, seed: int = 0, most_sentences: int = 12, most_words: int = 25
) -> list[list[list[int]]]:
    """Documents of random sentences; the token ids identify the document."""
    rng = np.random.default_rng(seed)
    return [
        [
            [FIRST_WORD + number] * int(rng.integers(1, most_words + 1))
            for _ in range(rng.integers(1, most_sentences + 1))
        ]
        for number in range(count)
    ]


def write_mixed_corpus(folder: Path) -> Path:
    """Writes many documents of several sentences; some have one sentence, some are empty."""
    documents = random_documents(400)
    documents[7] = []
    documents[8] = [[FIRST_WORD + 8]]
    documents[9] = [[FIRST_WORD + 9] * 200, [FIRST_WORD + 9] * 5]
    return write_corpus(folder, documents, pack_documents=23)


def load_table(folder: Path, mode: SampleMode, length: int = LENGTH) -> SampleTable:
    """Opens a table of a corpus as training does."""
    with open_corpus(folder) as corpus:
        fingerprint = corpus.manifest.fingerprint
    return load_sample_table(
        folder, mode=mode, sequence_length=length, corpus_fingerprint=fingerprint
    )


def read_all(table: SampleTable) -> Segments:
    """Reads all samples of a table."""
    return table.read(np.arange(table.num_samples))


def document_ranges(folder: Path) -> list[tuple[int, int]]:
    """The token range [start, stop) of every document, including its end token."""
    with open_corpus(folder) as corpus:
        starts = [
            start
            for pack in range(corpus.num_packs)
            for start in corpus.document_starts(pack).tolist()
        ]
        return list(zip(starts, [*starts[1:], corpus.num_tokens], strict=True))


def _render_array(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, array, version=(1, 0))
    return content.getvalue()
