"""Runs one task of a sharding job: reads pieces, writes at most one tar per split, then a marker.

A task depends only on its pieces and the job's choices, so it can run in any process, at any time,
and again after a crash.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.errors import InputError
from data_tools.manifest import token_dtype
from data_tools.reading.documents import Skipped
from data_tools.reading.read_pieces import read_piece
from data_tools.sentence_splitter import split_sentences
from data_tools.sharding.plan_tasks import ShardTask
from data_tools.sharding.shard_job import Job, Split
from data_tools.sharding.shard_markers import ShardMarker, SourceCount, write_shard_marker
from data_tools.tar_writer import ShardWriter
from data_tools.tokenizer import Tokenizer, load_tokenizer

SHUFFLE_BUFFER_TOKENS = 64 << 20
"""The buffer for shuffling the documents of a task; 128 MiB if an id has two bytes."""


@dataclass(frozen=True, slots=True)
class TokenDocument:
    """The ids of one document, including its eos."""

    tokens: NDArray[Any]
    sentences: NDArray[np.int64] | None
    split: Split
    source: str


@dataclass(slots=True)
class _Count:
    documents: int = 0
    bytes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def run_task(task: ShardTask, job: Job) -> ShardMarker:
    """Encodes the documents of a task into their shards and writes the marker.

    Raises:
        InputError: A file is damaged, has changed, or has an invalid document.
        OSError: The disk is full.
    """
    tokenizer = _tokenizer(job.tokenizer, job.choices.tokenizer)
    dtype = np.dtype(token_dtype(tokenizer.vocab_size)).newbyteorder("<")
    counts = {part.source: _Count() for part in task.parts}
    documents: Iterable[TokenDocument] = _documents(task, job, tokenizer, dtype, counts)
    if job.choices.shuffle:
        generator = Random(f"{job.choices.seed} {task.number}")
        documents = shuffled(documents, generator, buffer_tokens=SHUFFLE_BUFFER_TOKENS)
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(_writer(task, job, split, dtype)) for split in job.splits
        }
        for document in documents:
            writers[document.split].add(
                document.tokens, sentences=document.sentences, source=document.source
            )
        shards = {split: writer.finish() for split, writer in writers.items()}
    marker = ShardMarker(
        job_sha256=job.sha256,
        sources=tuple(
            SourceCount(
                source=source,
                documents=count.documents,
                bytes=count.bytes,
                skipped=dict(sorted(count.skipped.items())),
            )
            for source, count in counts.items()
        ),
        shards={split: shard for split, shard in shards.items() if shard},
    )
    write_shard_marker(task.number, marker, job)
    return marker


def choose_split(content: bytes, *, percent: float, seed: int) -> Split:
    """Chooses the split of a document by its content, so that equal texts are in the same split."""
    if not percent:
        return "train"
    key = seed.to_bytes(8, "little", signed=True)
    place = int.from_bytes(hashlib.blake2b(content, digest_size=8, key=key).digest(), "little")
    return "validation" if place < percent / 100 * 2**64 else "train"


def shuffled(
    documents: Iterable[TokenDocument], generator: Random, *, buffer_tokens: int
) -> Iterator[TokenDocument]:
    """Draws documents in random order from a buffer of up to `buffer_tokens`."""
    buffer: list[TokenDocument] = []
    held = 0
    for document in documents:
        buffer.append(document)
        held += len(document.tokens)
        while held > buffer_tokens:
            drawn = _draw(buffer, generator)
            held -= len(drawn.tokens)
            yield drawn
    while buffer:
        yield _draw(buffer, generator)


def encode_document(
    text: str, tokenizer: Tokenizer, dtype: np.dtype[Any], *, sentences: bool
) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    """Turns a text into ids, followed by eos, and finds where its sentences start.

    Returns:
        Ids `[tokens]` of `dtype`; sentence starts `[sentences]`, of which the first is 0, or None.
        The eos belongs to the last sentence.
    """
    if sentences:
        parts = [ids for ids in tokenizer.encode_parts(split_sentences(text)) if len(ids)]
        ids = np.concatenate(parts) if parts else np.empty(0, dtype)
        starts = np.cumsum([0, *(len(part) for part in parts[:-1])], dtype=np.int64)
    else:
        ids, starts = tokenizer.encode(text), None
    document = np.empty(len(ids) + 1, dtype)
    document[:-1] = ids
    document[-1] = tokenizer.special.eos
    return document, starts


def _draw(buffer: list[TokenDocument], generator: Random) -> TokenDocument:
    # `random()` is the only method whose values Python guarantees never to change.
    chosen = int(generator.random() * len(buffer))
    buffer[chosen], buffer[-1] = buffer[-1], buffer[chosen]
    return buffer.pop()


def _documents(
    task: ShardTask,
    job: Job,
    tokenizer: Tokenizer,
    dtype: np.dtype[Any],
    counts: dict[str, _Count],
) -> Iterator[TokenDocument]:
    choices, reading = job.choices, job.choices.reading
    for part in task.parts:
        count = counts[part.source]
        for document in read_piece(part.piece, reading):
            if isinstance(document, Skipped):
                count.skipped[document.reason] += 1
                continue
            content = document.text.encode("utf-8")
            split = choose_split(content, percent=choices.validation_percent, seed=choices.seed)
            tokens, starts = encode_document(
                document.text, tokenizer, dtype, sentences=choices.sentences
            )
            count.documents += 1
            count.bytes += len(content)
            yield TokenDocument(tokens, starts, split, part.source)


def _writer(task: ShardTask, job: Job, split: Split, dtype: np.dtype[Any]) -> ShardWriter:
    return ShardWriter(
        job.out / split / f"{job.choices.name}-{task.number:06d}.tar",
        task=task.number,
        dtype=dtype,
        pack_tokens=job.choices.pack_tokens,
        source=task.parts[0].source,
    )


@lru_cache(maxsize=1)
def _tokenizer(path: Path, sha256: str) -> Tokenizer:
    tokenizer = load_tokenizer(path)
    if tokenizer.sha256 != sha256:
        raise InputError(f"{path} changed while the job ran: run the same command again")
    return tokenizer
