"""Converts corpora to and from Megatron-LM's indexed datasets, in bounded memory."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from data_tools.corpus import Corpus, open_corpus
from data_tools.errors import InputError
from data_tools.files import finish_file, part_path, write_file
from data_tools.jobs.output_folder import LOCK_NAME, only_writer
from data_tools.jobs.tool_version import tool_version
from data_tools.manifest import (
    MANIFEST_NAME,
    InputInfo,
    Manifest,
    ShardInfo,
    TokenizerInfo,
    render_manifest,
    token_dtype,
    total_of,
)
from data_tools.megatron_files import (
    HEADER,
    LENGTH,
    MAGIC,
    POSITION,
    TYPES,
    VERSION,
    MegatronFiles,
    file_paths,
)
from data_tools.progress import show_progress
from data_tools.tar_writer import ShardWriter, check_name
from data_tools.tokenizer import Tokenizer, check_exportable, load_tokenizer


@dataclass(frozen=True, slots=True)
class MegatronExport:
    """What an export wrote."""

    bin: Path
    idx: Path
    documents: int
    sequences: int
    tokens: int


@dataclass(frozen=True, slots=True)
class MegatronImport:
    """What an import wrote, and how often it changed a document."""

    folder: Path
    manifest: Manifest
    added_ends: int
    """Documents that got an eos at the end."""
    cuts: int
    """Places inside a document where it was cut, after an eos."""
    empty: int
    """Documents without tokens; they were skipped."""


def export_megatron(
    folder: Path, prefix: Path, *, sentences: bool = False, force: bool = False
) -> MegatronExport:
    """Writes a corpus as `PREFIX.bin` and `PREFIX.idx`; each document keeps its eos.

    Args:
        folder: The corpus folder.
        prefix: The path of the two files, without their endings.
        sentences: Writes one sequence per sentence, as Megatron's BERT needs, not per document.
        force: Replaces existing files.

    Raises:
        InputError: The corpus is damaged or has no sentences, or the files exist already.
    """
    bin_path, idx_path = file_paths(prefix)
    there = [path for path in (bin_path, idx_path) if path.exists()]
    if there and not force:
        raise InputError(f"{there[0]} exists already: choose another prefix, or add --force")
    with open_corpus(folder) as corpus:
        totals = corpus.manifest.totals
        if sentences and not totals.sents:
            raise InputError(f"{folder} has no sentence starts: shard with --sentences")
        corpus.check_files()
        prefix.parent.mkdir(parents=True, exist_ok=True)
        with _part(bin_path) as bin_part, _part(idx_path) as idx_part:
            _export(corpus, bin_part, idx_part, sentences)
            idx_path.unlink(missing_ok=True)  # There must never be an old index with new tokens.
            finish_file(bin_part, bin_path)
            finish_file(idx_part, idx_path)
    sequences = totals.sents if sentences else totals.docs
    return MegatronExport(bin_path, idx_path, totals.docs, sequences, totals.tokens)


def import_megatron(
    prefix: Path,
    out: Path,
    *,
    tokenizer: Path,
    sentences: bool = False,
    name: str = "tokens",
    split: str = "train",
    pack_tokens: int = 1 << 20,
    shard_tokens: int = 1 << 26,
) -> MegatronImport:
    """Makes a corpus folder of `PREFIX.bin` and `PREFIX.idx`; equal files give equal bytes.

    Args:
        prefix: The path of the two files, without their endings.
        out: The corpus folder to make; it appears when it is complete.
        tokenizer: The tokenizer that made the ids; its eos ends every document.
        sentences: Whether every sequence is a sentence; then sentence starts are recorded.
        name: The prefix of the tars' names.
        split: The name of the split in the manifest.
        pack_tokens: A pack is closed with the document that brings it to this many tokens.
        shard_tokens: A tar is closed with the document that brings it to this many tokens.

    Raises:
        InputError: The files are damaged, do not belong together or have ids that the tokenizer
            lacks, or the tokenizer cannot be exported, or `out` exists already.
    """
    source = MegatronFiles(prefix)
    loaded = load_tokenizer(tokenizer)
    check_exportable(loaded)
    check_name(name)
    if min(pack_tokens, shard_tokens) < 1:
        raise InputError(f"pack of {pack_tokens}, tar of {shard_tokens} tokens: at least 1 each")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} exists already: choose another --out, or delete it")
    work = out.with_name(f".{out.name}.import.part")
    with only_writer(work):
        try:
            _clear(work)
            counts: Counter[str] = Counter()
            documents = _end_with_eos(source, loaded, counts)
            shards = _write_shards(
                documents if sentences else ((ids, None) for ids, _ in documents),
                work / name,
                dtype=np.dtype(token_dtype(loaded.vocab_size)).newbyteorder("<"),
                pack_tokens=pack_tokens,
                shard_tokens=shard_tokens,
            )
            if not shards:
                raise InputError(f"{prefix}.bin has no tokens, so there is nothing to import")
            manifest = _manifest(source, loaded, shards, name, split, counts["empty"])
            write_file(work / loaded.file_name, loaded.content)
            write_file(work / MANIFEST_NAME, render_manifest(manifest))
            (work / LOCK_NAME).unlink()
            work.rename(out)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    return MegatronImport(out, manifest, counts["added"], counts["cuts"], counts["empty"])


@contextmanager
def _part(path: Path) -> Iterator[Path]:
    part = part_path(path)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _export(corpus: Corpus, bin_part: Path, idx_part: Path, sentences: bool) -> None:
    totals = corpus.manifest.totals
    code = 8 if corpus.manifest.dtype == "uint16" else 4  # The format has no uint32.
    dtype = TYPES[code]
    num_sequences = totals.sents if sentences else totals.docs
    lengths_at = HEADER.size
    pointers_at = lengths_at + num_sequences * LENGTH.itemsize
    marks_at = pointers_at + num_sequences * POSITION.itemsize
    done = documents_done = 0
    with (
        bin_part.open("wb") as tokens_file,
        idx_part.open("wb") as index_file,
        show_progress("exporting", totals.tokens * dtype.itemsize) as advance,
    ):
        header = HEADER.pack(MAGIC, VERSION, code, num_sequences, totals.docs + 1)
        _write_at(index_file, 0, np.frombuffer(header, np.uint8))
        _write_at(index_file, marks_at, np.zeros(1, POSITION))
        for pack in range(corpus.num_packs):
            start, stop = corpus.pack_range(pack)
            documents = corpus.document_starts(pack)
            sequences = corpus.sentence_starts(pack) if sentences else documents
            lengths = np.diff(sequences, append=stop)
            _check_longest(corpus, lengths)
            marks = done + np.searchsorted(sequences, np.append(documents[1:], stop))
            tokens_file.write(corpus.read(start, stop).astype(dtype, copy=False).data)
            for at, number, values in (
                (lengths_at, done, lengths.astype(LENGTH)),
                (pointers_at, done, (sequences * dtype.itemsize).astype(POSITION)),
                (marks_at, documents_done + 1, marks.astype(POSITION)),
            ):
                _write_at(index_file, at + number * values.itemsize, values)
            done += len(sequences)
            documents_done += len(documents)
            advance((stop - start) * dtype.itemsize)
    assert (done, documents_done) == (num_sequences, totals.docs)


def _write_at(file: IO[bytes], offset: int, values: NDArray[Any]) -> None:
    file.seek(offset)
    file.write(values.data)


def _check_longest(corpus: Corpus, lengths: NDArray[Any]) -> None:
    longest = int(lengths.max(initial=0))
    if longest > np.iinfo(LENGTH).max:
        raise InputError(
            f"{corpus.folder} has a document of {longest} tokens, and the format allows at most "
            f"{np.iinfo(LENGTH).max}: shard the text again in shorter documents"
        )


def _end_with_eos(
    source: MegatronFiles, tokenizer: Tokenizer, counts: Counter[str]
) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
    """Yields documents that end with eos and have no other eos; counts the changes."""
    eos = tokenizer.special.eos
    with show_progress("importing", source.bytes) as advance:
        for number, (ids, starts) in enumerate(source.documents()):
            advance(ids.nbytes)
            if not len(ids):
                counts["empty"] += 1
                continue
            if ids.max() >= tokenizer.vocab_size or ids.min() < 0:
                _refuse_id(source, tokenizer, number, ids)
            ends = np.flatnonzero(ids == eos) + 1
            if not len(ends) or ends[-1] != len(ids):
                counts["added"] += 1
                ids = np.append(ids, np.array([eos], np.int64))
                ends = np.append(ends, len(ids))
            counts["cuts"] += len(ends) - 1
            for first, last in pairwise([0, *ends.tolist()]):
                inside = starts[(starts > first) & (starts < last)] - first
                yield ids[first:last], np.concatenate([[0], np.unique(inside)])


def _refuse_id(source: MegatronFiles, tokenizer: Tokenizer, number: int, ids: NDArray[Any]) -> None:
    place = int(np.argmax((ids >= tokenizer.vocab_size) | (ids < 0)))
    raise InputError(
        f"{source.bin}: document {number}, token {place}: id {ids[place]} is not in the vocabulary "
        f"of {tokenizer.vocab_size}: give the tokenizer that made these files"
    )


def _write_shards(
    documents: Iterable[tuple[NDArray[Any], NDArray[np.int64] | None]],
    path: Path,
    *,
    dtype: np.dtype[Any],
    pack_tokens: int,
    shard_tokens: int,
) -> tuple[ShardInfo, ...]:
    """Writes `PATH-000000.tar`, `PATH-000001.tar` and so on, until there are no more documents."""
    shards: list[ShardInfo] = []
    rest = iter(documents)
    while True:
        number = len(shards)
        with ShardWriter(
            path.with_name(f"{path.name}-{number:06d}.tar"),
            task=number,
            dtype=dtype,
            pack_tokens=pack_tokens,
            source="megatron",
        ) as writer:
            num_tokens = 0
            for ids, sentences in rest:
                writer.add(ids.astype(dtype, copy=False), sentences=sentences)
                num_tokens += len(ids)
                if num_tokens >= shard_tokens:
                    break
            shard = writer.finish()
        if shard is None:
            return tuple(shards)
        shards.append(shard)


def _manifest(
    source: MegatronFiles,
    tokenizer: Tokenizer,
    shards: tuple[ShardInfo, ...],
    name: str,
    split: str,
    skipped: int,
) -> Manifest:
    read = InputInfo(
        source=source.bin.name,
        documents=source.num_documents - skipped,
        bytes=source.bytes,
        skipped=skipped,
    )
    return Manifest(
        name=name,
        split=split,
        tokenizer=TokenizerInfo(
            sha256=tokenizer.sha256,
            vocab_size=tokenizer.vocab_size,
            special=tokenizer.special,
            file=tokenizer.file_name,
        ),
        dtype=token_dtype(tokenizer.vocab_size),
        shards=shards,
        totals=total_of(shards),
        inputs=(read,),
        tool_version=tool_version(),
        seed=0,
    )


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != LOCK_NAME:
            path.unlink()
