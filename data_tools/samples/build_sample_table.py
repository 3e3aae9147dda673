"""The job that makes a sample table: plans the samples of a corpus, then writes a manifest.

It reads only the starts of documents and sentences, never the tokens.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data_tools.array_files import FileInfo
from data_tools.corpus import Corpus, open_corpus
from data_tools.errors import InputError
from data_tools.files import write_file
from data_tools.jobs.completion_markers import has_size
from data_tools.jobs.job_file import describe_changes
from data_tools.jobs.output_folder import only_writer, removing_parts
from data_tools.jobs.tool_version import tool_version
from data_tools.progress import Advance, show_progress
from data_tools.samples.corpus_sentences import CorpusSentences
from data_tools.samples.plan_pairs import (
    SHORTEST_SEQUENCE,
    SPECIAL_TOKENS,
    Pair,
    PairMaker,
    RandomStream,
    padded_length,
)
from data_tools.samples.plan_rows import Chunks, cut_documents, plan_bestfit
from data_tools.samples.sample_table import (
    LENGTHS,
    MANIFEST_NAME,
    ROWS,
    STARTS,
    SampleMode,
    SamplesManifest,
    load_samples_manifest,
    manifest_fingerprint,
    render_samples_manifest,
    table_folder,
)
from data_tools.samples.sample_table_writer import PAIR_RECORD, PairSorter, TableWriter


@dataclass(frozen=True, slots=True)
class SamplesResult:
    """The table of a job, made now or in an earlier run."""

    folder: Path
    manifest: SamplesManifest
    fingerprint: str
    seconds: float
    already_done: bool


@dataclass(frozen=True, slots=True)
class _Job:
    corpus: Corpus
    folder: Path
    mode: SampleMode
    sequence_length: int
    seed: int
    parameters: dict[str, int | float]

    @property
    def identity(self) -> dict[str, int | float | str]:
        """All options that determine the content of the table."""
        fingerprint = self.corpus.manifest.fingerprint
        return {"corpus_fingerprint": fingerprint, "seed": self.seed, **self.parameters}


@dataclass(frozen=True, slots=True)
class _WrittenTable:
    """The counts and files of a written table, for its manifest."""

    buckets: tuple[tuple[int, int], ...]
    num_samples: int
    num_segments: int
    statistics: dict[str, int | float]
    files: dict[str, FileInfo]


def build_sample_table(
    corpus_folder: Path,
    *,
    mode: SampleMode,
    sequence_length: int,
    seed: int = 0,
    copies: int = 1,
    short_probability: float = 0.1,
) -> SamplesResult:
    """Makes the sample table of a corpus, unless it exists already.

    Args:
        corpus_folder: The corpus folder; the table is written to `samples/MODE-LENGTH` in it.
        mode: `bestfit` packs complete documents into rows that are nearly full, `pad` makes one row
            of each document, `pairs` makes BERT's sentence pairs (the corpus needs sentences).
        sequence_length: Tokens of a row; longer documents are cut, except for `pairs`.
        seed: The seed for choosing pairs; the other modes make no random choices.
        copies: How many times each document is cut into pairs, each time differently.
        short_probability: The probability that pairs of a document are shorter than possible.

    Raises:
        InputError: The corpus cannot be read or gives no sample, an option is out of range,
            the folder has another table, or another process is writing one.
    """
    started = time.monotonic()
    _check_options(mode, sequence_length, seed, copies, short_probability)
    of_pairs = mode == "pairs"
    with open_corpus(corpus_folder) as corpus:
        job = _Job(
            corpus=corpus,
            folder=table_folder(corpus_folder, mode=mode, sequence_length=sequence_length),
            mode=mode,
            sequence_length=sequence_length,
            seed=seed if of_pairs else 0,
            parameters=(
                {"copies": copies, "short_probability": short_probability} if of_pairs else {}
            ),
        )
        manifest = _finished(job)
        already_done = manifest is not None
        if manifest is None:
            with only_writer(job.folder.parent):
                manifest = _finished(job) or _make(job)
    return SamplesResult(
        folder=job.folder,
        manifest=manifest,
        fingerprint=manifest_fingerprint(manifest),
        seconds=time.monotonic() - started,
        already_done=already_done,
    )


def _check_options(
    mode: SampleMode, sequence_length: int, seed: int, copies: int, short_probability: float
) -> None:
    shortest = SHORTEST_SEQUENCE if mode == "pairs" else 1
    if not shortest <= sequence_length < 1 << 24:
        raise InputError(
            f"sequence length {sequence_length} is out of range for {mode}: "
            f"choose {shortest} to {(1 << 24) - 1}"
        )
    if seed < 0:
        raise InputError(f"seed {seed} is negative: choose 0 or more")
    if copies < 1:
        raise InputError(f"copies {copies} must be at least 1")
    if copies > 1 and mode != "pairs":
        raise InputError(f"copies {copies} is only for pairs: omit it for {mode}")
    if not 0 <= short_probability <= 1:
        raise InputError(f"short probability {short_probability} must be from 0 to 1")


def _finished(job: _Job) -> SamplesManifest | None:
    """The manifest of this table, if the table exists and is complete."""
    path = job.folder / MANIFEST_NAME
    if not path.is_file():
        return None
    manifest = load_samples_manifest(path)
    there = {
        "corpus_fingerprint": manifest.corpus_fingerprint,
        "seed": manifest.seed,
        **manifest.parameters,
    }
    identity = job.identity
    if changes := describe_changes({key: there.get(key) for key in identity}, identity):
        raise InputError(
            f"{job.folder} is a table made with other {changes}: nothing was changed; "
            "delete that folder to make it again"
        )
    files = {job.folder / name: info.bytes for name, info in manifest.files.items()}
    is_complete = all(has_size(file, size) for file, size in files.items())
    return manifest if is_complete else None


def _make(job: _Job) -> SamplesManifest:
    job.folder.mkdir(exist_ok=True)
    what = f"planning {job.mode} samples"
    total = job.corpus.num_tokens * job.corpus.manifest.token_type.itemsize
    try:
        with removing_parts([(job.folder, "")]), show_progress(what, total) as advance:
            planned = _plan(job, advance)
    except BaseException:
        if not any(job.folder.iterdir()):
            job.folder.rmdir()
        raise
    manifest = SamplesManifest(
        mode=job.mode,
        sequence_length=job.sequence_length,
        corpus_fingerprint=job.corpus.manifest.fingerprint,
        seed=job.seed,
        parameters=job.parameters,
        num_samples=planned.num_samples,
        num_segments=planned.num_segments,
        buckets=planned.buckets,
        statistics=planned.statistics,
        files=planned.files,
        tool_version=tool_version(),
    )
    write_file(job.folder / MANIFEST_NAME, render_samples_manifest(manifest))
    return manifest


def _plan(job: _Job, advance: Advance) -> _WrittenTable:
    match job.mode:
        case "bestfit":
            return _plan_bestfit(job, advance)
        case "pad":
            return _plan_pad(job, advance)
        case "pairs":
            return _plan_pairs(job, advance)


def _plan_bestfit(job: _Job, advance: Advance) -> _WrittenTable:
    parts = list(_chunks(job, advance))
    starts = np.concatenate([part.starts for part in parts])
    lengths = np.concatenate([part.lengths for part in parts])
    del parts
    _refuse_none(job, len(starts))
    packing = plan_bestfit(lengths, capacity=job.sequence_length)
    with TableWriter(job.folder, with_random=False) as table:
        table.write(ROWS, packing.rows)
        table.write(STARTS, starts[packing.order])
        table.write(LENGTHS, lengths[packing.order])
        return _row_plan(job, table, tokens=int(lengths.sum(dtype=np.int64)))


def _plan_pad(job: _Job, advance: Advance) -> _WrittenTable:
    tokens = 0
    with TableWriter(job.folder, with_random=False) as table:
        for part in _chunks(job, advance):
            table.write(STARTS, part.starts)
            table.write(LENGTHS, part.lengths)
            tokens += int(part.lengths.sum(dtype=np.int64))
        _refuse_none(job, tokens)
        table.write_even_rows(table.count(STARTS), each=1)
        return _row_plan(job, table, tokens=tokens)


def _row_plan(job: _Job, table: TableWriter, *, tokens: int) -> _WrittenTable:
    num_samples = table.count(ROWS) - 1
    utilisation = round(tokens / (num_samples * job.sequence_length), 6)
    return _WrittenTable(
        buckets=(),
        num_samples=num_samples,
        num_segments=table.count(STARTS),
        statistics={"tokens": tokens, "utilisation": utilisation},
        files=table.finish(),
    )


def _chunks(job: _Job, advance: Advance) -> Iterator[Chunks]:
    for pack in range(job.corpus.num_packs):
        start, stop = job.corpus.pack_range(pack)
        starts = job.corpus.document_starts(pack)
        stops = np.append(starts[1:], stop)
        yield cut_documents(starts, stops, sequence_length=job.sequence_length)
        advance((stop - start) * job.corpus.manifest.token_type.itemsize)


def _plan_pairs(job: _Job, advance: Advance) -> _WrittenTable:
    sentences = CorpusSentences(job.corpus)
    tokens = num_random = 0
    with (
        PairSorter(job.folder, sequence_length=job.sequence_length) as sorter,
        TableWriter(job.folder, with_random=True) as table,
    ):
        for pack in range(job.corpus.num_packs):
            for copy in range(int(job.parameters["copies"])):
                pairs = _pairs_of_pack(job, sentences, pack, copy)
                records = np.array(
                    [_record(pair, job.sequence_length) for pair in pairs], dtype=PAIR_RECORD
                )
                sorter.add(records)
                tokens += int(records["lengths"].sum(dtype=np.int64))
                num_random += int(records["is_random"].sum(dtype=np.int64))
            start, stop = job.corpus.pack_range(pack)
            advance((stop - start) * job.corpus.manifest.token_type.itemsize)
        buckets = sorter.buckets
        num_samples = sum(count for _, count in buckets)
        _refuse_none(job, num_samples)
        sorter.write(table)
        padded = sum(length * count for length, count in buckets)
        return _WrittenTable(
            buckets=buckets,
            num_samples=num_samples,
            num_segments=2 * num_samples,
            statistics={
                "tokens": tokens,
                "random": num_random,
                "random_fraction": round(num_random / num_samples, 6),
                "padding": round(1 - (tokens + SPECIAL_TOKENS * num_samples) / padded, 6),
            },
            files=table.finish(),
        )


def _pairs_of_pack(job: _Job, sentences: CorpusSentences, pack: int, copy: int) -> Iterator[Pair]:
    purpose = f"pairs/{job.seed}/{copy}"
    first = sentences.first_documents[pack]
    partners = sentences.choose_partners(RandomStream(f"{purpose}/partners", pack))
    here = sentences.pack(pack)
    maker = PairMaker(
        sequence_length=job.sequence_length,
        short_probability=job.parameters["short_probability"],
    )
    for number in range(here.num_documents):
        rng = RandomStream(purpose, first + number)
        choose_other = partial(sentences.choose_other, first + number, partners, rng)
        yield from maker.pairs(here.document(number), rng, choose_other=choose_other)


def _record(pair: Pair, sequence_length: int) -> tuple[int, tuple[int, int], tuple[int, int], bool]:
    padded = padded_length(pair, sequence_length=sequence_length)
    starts, lengths = (pair.a_start, pair.b_start), (pair.a_length, pair.b_length)
    return padded, starts, lengths, pair.is_random


def _refuse_none(job: _Job, count: int) -> None:
    if not count:
        raise InputError(
            f"{job.corpus.folder}: no document has the two tokens that a sample needs: "
            "shard other text"
        )
