"""One task of a sharding job: some files in, at most one tar per split out, then a marker.

A task depends on nothing but its own files and the job's settings, so it can run in any process,
at any time, and again after a crash.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from data_tools.errors import InputError
from data_tools.files import load_json, render_json, write_file
from data_tools.index import index_path
from data_tools.manifest import ShardInfo, token_dtype
from data_tools.reading.text_files import read_document
from data_tools.shards import ShardWriter
from data_tools.tokenizer import Tokenizer, load_tokenizer

Split = Literal["train", "validation"]
TASKS_FOLDER = "tasks"


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What every task of a job needs to know."""

    out: Path
    name: str
    job_sha256: str
    tokenizer: Path
    tokenizer_sha256: str
    validation_percent: float
    pack_tokens: int
    seed: int

    @property
    def splits(self) -> tuple[Split, ...]:
        """The corpus folders that the job makes."""
        return ("train", "validation") if self.validation_percent else ("train",)


@dataclass(frozen=True, slots=True)
class ShardTask:
    """Some files of one source."""

    number: int
    source: str
    files: tuple[Path, ...]
    bytes: int


class TaskMarker(BaseModel):
    """What a finished task has made; written last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_sha256: str
    source: str
    documents: int
    bytes: int
    skipped: int
    shards: dict[Split, ShardInfo]


def run_task(task: ShardTask, settings: JobSettings) -> TaskMarker:
    """Encodes the files of a task into their shards and writes the marker."""
    tokenizer = _tokenizer(settings.tokenizer, settings.tokenizer_sha256)
    writers = {split: _writer(task, settings, split, tokenizer) for split in settings.splits}
    end = np.array([tokenizer.special.eos], dtype=np.int32)
    documents = skipped = size = 0
    for text in _documents(task):
        if text is None:
            skipped += 1
            continue
        content = text.encode("utf-8")
        split = choose_split(content, percent=settings.validation_percent, seed=settings.seed)
        writers[split].add(np.concatenate([tokenizer.encode(text), end]))
        documents, size = documents + 1, size + len(content)
    shards = {split: writer.finish() for split, writer in writers.items()}
    marker = TaskMarker(
        job_sha256=settings.job_sha256,
        source=task.source,
        documents=documents,
        bytes=size,
        skipped=skipped,
        shards={split: shard for split, shard in shards.items() if shard},
    )
    write_file(_marker_path(task, settings), render_json(marker.model_dump(mode="json")))
    return marker


def load_marker(task: ShardTask, settings: JobSettings) -> TaskMarker | None:
    """Reads what a finished task has made; None where it must run, for the first time or again."""
    path = _marker_path(task, settings)
    if not path.is_file():
        return None
    try:
        marker = TaskMarker.model_validate(load_json(path))
    except (InputError, ValidationError):
        return None
    whole = marker.job_sha256 == settings.job_sha256 and all(
        _is_whole(settings.out / split / shard.file, shard.bytes)
        for split, shard in marker.shards.items()
    )
    return marker if whole else None


def choose_split(content: bytes, *, percent: float, seed: int) -> Split:
    """Sends a document to a split by its content alone, so that equal texts stay together."""
    key = seed.to_bytes(8, "little", signed=True)
    place = int.from_bytes(hashlib.blake2b(content, digest_size=8, key=key).digest(), "little")
    return "validation" if place < percent / 100 * 2**64 else "train"


def _documents(task: ShardTask) -> Iterator[str | None]:
    return (read_document(file) for file in task.files)


def _writer(
    task: ShardTask, settings: JobSettings, split: Split, tokenizer: Tokenizer
) -> ShardWriter:
    return ShardWriter(
        settings.out / split / f"{settings.name}-{task.number:06d}.tar",
        task=task.number,
        dtype=np.dtype(token_dtype(tokenizer.vocab_size)).newbyteorder("<"),
        pack_tokens=settings.pack_tokens,
        source=task.source,
    )


def _marker_path(task: ShardTask, settings: JobSettings) -> Path:
    return settings.out / TASKS_FOLDER / f"{task.number:06d}.json"


def _is_whole(tar: Path, size: int) -> bool:
    return tar.is_file() and tar.stat().st_size == size and index_path(tar).is_file()


@lru_cache(maxsize=1)
def _tokenizer(path: Path, sha256: str) -> Tokenizer:
    tokenizer = load_tokenizer(path)
    if tokenizer.sha256 != sha256:
        raise InputError(f"{path} changed while the job ran: run the same command again")
    return tokenizer
