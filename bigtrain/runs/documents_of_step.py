"""Which documents a step was, or will be, trained on: computed from the order of data. No torch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigtrain.checkpoint.dangling_links import check_links
from bigtrain.data.corpora import AnySource, Source, build_sample_order
from bigtrain.data.corpus_checks import check_sources, open_sources
from bigtrain.data.label_source import LabelSource
from bigtrain.data.sample_order import SampleLocations
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.samples_of_step import find_step
from data_tools.tokenizer import Tokenizer, printable

_TEXT_TOKENS = 64
_SHOWN_CHARACTERS = 76


class FindSamplesError(ValueError):
    """The documents of the step cannot be found; the message is one line and says why."""


@dataclass(frozen=True, slots=True)
class SampleDocument:
    """A document, or the part of it that a sample holds."""

    shard: str
    pack: str
    document: int
    """Its number in the pack."""
    first_token: int
    """Position of its first token in the corpus's token stream."""
    num_tokens: int
    text: str
    """The beginning of the part."""


@dataclass(frozen=True, slots=True)
class SampleRow:
    """A row of a label table that a sample holds."""

    row: int
    file: str
    """The input file of `bigtrain data label`."""
    line: int
    """The line in the file; in Parquet and Arrow files the row, from 0."""
    num_tokens: int
    text: str
    """The beginning of the row."""


@dataclass(frozen=True, slots=True)
class SampleOrigin:
    """One sample of a step, and where its tokens come from."""

    sample: int
    """Its number in the run's order, as `data.skip` counts."""
    corpus: str
    epoch: int
    row: int
    """The window of the corpus, or the row of its sample table."""
    documents: tuple[SampleDocument, ...] = ()
    rows: tuple[SampleRow, ...] = ()
    """The rows that it holds; only of a label table."""


def find_samples(run_dir: Path, step: int) -> Iterator[SampleOrigin]:
    """Finds the samples of a step, already taken or still to come.

    Args:
        run_dir: A run folder.
        step: The step, from 1.

    Raises:
        FindSamplesError: There is no such run or step.
        FolderError: The run folder is a dangling link.
        ConfigError: The corpora are no longer those that the run was trained on.
        InputError: A corpus cannot be read.
    """
    check_links(run_dir)
    folder = RunFolder(run_dir)
    if (problem := folder.explain_no_run()) is not None:
        raise FindSamplesError(problem)
    if step < 1:
        raise FindSamplesError(f"--step {step}: steps are counted from 1")
    batch = find_step(folder, step)
    data = batch.config.data.model_copy(update={"validation": None})  # It may be gone.
    config = batch.config.model_copy(update={"data": data})
    sources, _ = open_sources(config)
    try:
        tokenizer = check_sources(config, sources, [])
        samples = np.arange(batch.consumed, batch.consumed + batch.count)
        locations = build_sample_order(config, sources).locate(samples)
        for index in range(batch.count):
            yield _origin(sources, locations, index, tokenizer)
    finally:
        for source in sources:
            source.close()


def render_samples(samples: Iterable[SampleOrigin]) -> Iterator[str]:
    """Renders the lines for the terminal: each sample, and its documents below it."""
    for sample in samples:
        yield f"sample {sample.sample}: {sample.corpus}, epoch {sample.epoch + 1}, row {sample.row}"
        for document in sample.documents:
            yield (
                f"  {document.shard}, pack {document.pack}, document {document.document}: "
                f"{document.num_tokens} tokens from {document.first_token}"
            )
            yield f"    {' '.join(document.text.split())[:_SHOWN_CHARACTERS]}"
        for row in sample.rows:
            yield f"  {row.file}, line {row.line} (table row {row.row}): {row.num_tokens} tokens"
            yield f"    {' '.join(row.text.split())[:_SHOWN_CHARACTERS]}"


def _origin(
    sources: list[AnySource], locations: SampleLocations, index: int, tokenizer: Tokenizer
) -> SampleOrigin:
    source, row = sources[int(locations.sources[index])], int(locations.rows[index])
    documents: tuple[SampleDocument, ...] = ()
    rows: tuple[SampleRow, ...] = ()
    if isinstance(source, LabelSource):
        rows = tuple(_rows(source, row, tokenizer))
    else:
        documents = tuple(_documents(source, row, tokenizer))
    return SampleOrigin(
        sample=int(locations.numbers[index]),
        corpus=source.name,
        epoch=int(locations.epochs[index]),
        row=row,
        documents=documents,
        rows=rows,
    )


def _documents(source: Source, row: int, tokenizer: Tokenizer) -> Iterator[SampleDocument]:
    for start, stop in source.token_ranges(np.array([row])):
        for place in source.corpus.find_documents(start, stop):
            first, end = max(start, place.start), min(stop, place.stop)
            ids = source.corpus.read(first, min(end, first + _TEXT_TOKENS))
            yield SampleDocument(
                shard=place.shard,
                pack=place.pack,
                document=place.number,
                first_token=first,
                num_tokens=end - first,
                text=printable(tokenizer.decode(ids)),
            )


def _rows(source: LabelSource, sample: int, tokenizer: Tokenizer) -> Iterator[SampleRow]:
    numbers = source.rows_of(sample)
    read, places = source.labels.read(numbers), source.labels.places(numbers)
    for index, (number, (file, line)) in enumerate(zip(numbers.tolist(), places, strict=True)):
        first, last = read.offsets[index : index + 2].tolist()
        ids = read.tokens[first : min(last, first + _TEXT_TOKENS)]
        yield SampleRow(
            row=number,
            file=file,
            line=line,
            num_tokens=last - first,
            text=printable(tokenizer.decode(ids)),
        )
