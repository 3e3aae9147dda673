"""Shows the contents of a corpus: counts, document lengths, sources, and some documents."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from data_tools.corpus import Corpus, open_corpus
from data_tools.errors import InputError
from data_tools.files import file_sha256, render_json
from data_tools.manifest import Manifest
from data_tools.progress import show_progress
from data_tools.tokenizer import load_tokenizer, printable

_CHARACTERS = 400
_TOKENS_PER_CHARACTER = 4  # At most: a character outside the vocabulary becomes up to four bytes.
_EXACT_PACKS = 65_536  # About 70 billion tokens; a larger corpus is sampled.
_SAMPLE_SHARDS = 1024
_SAMPLE_PACKS = 64
_FEW_SHARDS = 20
_BAR_CELLS = 18
_LENGTH_BITS = 63


@dataclass(frozen=True, slots=True)
class DocumentSample:
    """The beginning of one document, and its location."""

    number: int
    """Its number in the corpus, from 0."""
    shard: str
    pack: str
    num_tokens: int
    text: str


@dataclass(frozen=True, slots=True)
class LengthBin:
    """The documents of at least `first` and at most `last` tokens, including the eos."""

    first: int
    last: int
    documents: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """Document lengths in bins of powers of two; exact if every pack was counted."""

    bins: tuple[LengthBin, ...]
    packs: int
    """The number of packs that were counted."""
    all_packs: int

    @property
    def documents(self) -> int:
        """Documents counted."""
        return sum(row.documents for row in self.bins)

    @property
    def tokens(self) -> int:
        """Tokens counted."""
        return sum(row.tokens for row in self.bins)


@dataclass(frozen=True, slots=True)
class Inspection:
    """A corpus's manifest, its document lengths, and some decoded documents."""

    folder: Path
    manifest: Manifest
    histogram: Histogram
    documents: tuple[DocumentSample, ...]


def inspect_corpus(
    folder: Path, *, documents: int = 3, characters: int = _CHARACTERS
) -> Inspection:
    """Opens a corpus, counts its document lengths, and decodes documents spread evenly over it.

    Args:
        folder: The corpus folder.
        documents: How many documents to decode.
        characters: How many characters to keep of each.

    Raises:
        InputError: The corpus is damaged, or its tokenizer is not the one it was made with.
    """
    if documents < 0:
        raise InputError(f"--documents {documents} must be 0 or more")
    with open_corpus(folder) as corpus:
        path = folder / corpus.manifest.tokenizer.file
        if not path.is_file() or file_sha256(path) != corpus.manifest.tokenizer.sha256:
            raise InputError(
                f"{path} is missing or not the tokenizer this corpus was made with: "
                "restore it from a good copy"
            )
        tokenizer = load_tokenizer(path)
        samples = tuple(
            DocumentSample(
                number, shard, pack, num_tokens, printable(tokenizer.decode(ids)[:characters])
            )
            for number, shard, pack, num_tokens, ids in _spread_documents(
                corpus, documents, characters * _TOKENS_PER_CHARACTER
            )
        )
        return Inspection(folder, corpus.manifest, count_lengths(corpus), samples)


def count_lengths(corpus: Corpus, *, exact_packs: int = _EXACT_PACKS) -> Histogram:
    """Counts documents by length, pack after pack, so that memory does not grow.

    Args:
        corpus: An open corpus.
        exact_packs: If the corpus has more packs, only a fixed sample is counted: evenly spread
            shards, and evenly spread packs of each.

    Raises:
        InputError: A tar on disk is damaged.
    """
    documents = np.zeros(_LENGTH_BITS, np.int64)
    tokens = np.zeros(_LENGTH_BITS, np.int64)
    counted = 0
    shards = corpus.manifest.shards
    is_exact = corpus.num_packs <= exact_packs
    chosen = range(len(shards)) if is_exact else _spread(len(shards), _SAMPLE_SHARDS)
    first_packs = [0, *accumulate(shard.packs for shard in shards)]
    total = sum(shards[number].docs for number in chosen) * np.dtype(np.int64).itemsize
    with show_progress("reading lengths", total) as advance:
        for number in chosen:
            packs = shards[number].packs
            for pack in range(packs) if is_exact else _spread(packs, _SAMPLE_PACKS):
                lengths = _lengths(corpus, first_packs[number] + pack)
                # The exponent of 5 = 0.625 · 2³ is 3; its bin, from 4 to 7, is number 2.
                bins = np.frexp(lengths.astype(np.float64))[1] - 1
                documents += np.bincount(bins, minlength=_LENGTH_BITS)
                np.add.at(tokens, bins, lengths)
                counted += 1
            advance(shards[number].docs * np.dtype(np.int64).itemsize)
    rows = tuple(
        LengthBin(1 << bit, (2 << bit) - 1, int(documents[bit]), int(tokens[bit]))
        for bit in _between_filled(documents)
    )
    return Histogram(rows, counted, corpus.num_packs)


def _lengths(corpus: Corpus, pack: int) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = np.diff(
        corpus.document_starts(pack), append=corpus.pack_range(pack)[1]
    )
    if np.any(lengths < 1):
        raise InputError(
            f"{corpus.folder}: the document starts of pack number {pack} do not ascend: "
            "check it with `bigtrain data verify`"
        )
    return lengths


def _spread(total: int, count: int) -> Sequence[int]:
    """At most `count` of the numbers below `total`, evenly spread, from 0 on."""
    count = min(count, total)
    return [number * total // count for number in range(count)]


def _between_filled(counts: NDArray[np.int64]) -> range:
    filled = np.flatnonzero(counts)
    return range(int(filled[0]), int(filled[-1]) + 1) if len(filled) else range(0)


def _spread_documents(
    corpus: Corpus, count: int, max_tokens: int
) -> Iterator[tuple[int, str, str, int, NDArray[Any]]]:
    """Yields number, shard, pack, length and first ids of documents spread over the corpus."""
    shards = corpus.manifest.shards
    first_documents = [0, *accumulate(shard.docs for shard in shards)]
    first_packs = [0, *accumulate(shard.packs for shard in shards)]
    for number in _spread(corpus.manifest.num_documents, count):
        shard = bisect_right(first_documents, number) - 1
        within = number - first_documents[shard]
        for pack in range(first_packs[shard], first_packs[shard + 1]):
            starts = corpus.document_starts(pack)
            if within >= len(starts):
                within -= len(starts)
                continue
            stop = corpus.pack_range(pack)[1]
            start, stop = (int(place) for place in np.append(starts, stop)[within : within + 2])
            place = corpus.find_documents(start, start + 1)[0]
            ids = corpus.read(start, min(stop, start + max_tokens))
            yield number, place.shard, place.pack, stop - start, ids
            break


def render_inspection(inspection: Inspection) -> RenderableType:
    """Renders an inspection for the terminal."""
    shards = inspection.manifest.shards
    parts: list[RenderableType] = [_render_facts(inspection)]
    if 1 < len(shards) <= _FEW_SHARDS:
        parts.append(_render_shards(inspection.manifest))
    parts.append(_render_histogram(inspection.histogram))
    return Group(*parts, *_render_documents(inspection.documents))


def render_inspection_json(inspection: Inspection) -> str:
    """Renders an inspection as JSON: the manifest, its fingerprint, lengths and documents."""
    manifest = inspection.manifest.model_dump(mode="json")
    values = {
        "folder": str(inspection.folder),
        "fingerprint": inspection.manifest.fingerprint,
        "manifest": {"schema": manifest.pop("corpus_schema"), **manifest},
        "lengths": asdict(inspection.histogram),
        "documents": [asdict(document) for document in inspection.documents],
    }
    return render_json(values).decode("utf-8")


def _render_facts(inspection: Inspection) -> Table:
    table = Table(title=str(inspection.folder), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _facts(inspection.manifest).items():
        table.add_row(name, Text(str(value)))
    return table


def _facts(manifest: Manifest) -> dict[str, Any]:
    special = manifest.tokenizer.special
    names = ("pad", "bos", "eos", "unk", "cls", "sep", "mask")
    ids = ((name, getattr(special, name)) for name in names)
    percent = manifest.validation_percent
    sents = manifest.totals.sents
    return {
        "split": manifest.split,
        "tokens": f"{manifest.num_tokens:,}",
        "documents": f"{manifest.num_documents:,}",
        **({"sentences": f"{sents:,}"} if sents else {}),
        "tokens per document": f"{manifest.num_tokens / max(1, manifest.num_documents):,.1f}",
        "shards": f"{len(manifest.shards):,}",
        "packs": f"{manifest.totals.packs:,}",
        "bytes": f"{manifest.totals.bytes:,}",
        "token type": manifest.dtype,
        "vocabulary": f"{manifest.tokenizer.vocab_size:,}",
        "special ids": ", ".join(f"{name} {number}" for name, number in ids if number >= 0),
        manifest.tokenizer.file: manifest.tokenizer.sha256,
        "fingerprint": manifest.fingerprint,
        "made by": f"bigtrain {manifest.tool_version}, seed {manifest.seed}",
        "validation": "unknown" if percent is None else f"{percent:g} % of documents, by content",
        **{
            f"input {source.source}": f"{source.documents:,} documents, {source.bytes:,} bytes, "
            f"{source.skipped:,} skipped"
            for source in manifest.inputs
        },
    }


def _render_shards(manifest: Manifest) -> Table:
    table = Table("shard")
    for name in ("bytes", "packs", "documents", "tokens"):
        table.add_column(name, justify="right")
    for shard in manifest.shards:
        counts = (shard.bytes, shard.packs, shard.docs, shard.tokens)
        table.add_row(Text(shard.file), *(f"{count:,}" for count in counts))
    return table


def _render_histogram(histogram: Histogram) -> Table:
    how = "all packs" if histogram.packs == histogram.all_packs else "an even sample:"
    if histogram.packs != histogram.all_packs:
        how += f" {histogram.packs:,} of {histogram.all_packs:,} packs"
    table = Table(title=f"length of documents in tokens ({how})", title_justify="left")
    table.add_column("tokens", justify="right")
    table.add_column("documents", justify="right")
    table.add_column("% of documents", min_width=_BAR_CELLS)
    table.add_column("% of tokens", min_width=_BAR_CELLS)
    for row in histogram.bins:
        table.add_row(
            f"{row.first:,} – {row.last:,}",
            f"{row.documents:,}",
            _share(row.documents, histogram.documents),
            _share(row.tokens, histogram.tokens),
        )
    return table


def _share(part: int, total: int) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=5, justify="right")
    grid.add_column(width=_BAR_CELLS - 6)
    grid.add_row(f"{100 * part / total:.1f}", Bar(total, 0, part, width=_BAR_CELLS - 6))
    return grid


def _render_documents(documents: Iterable[DocumentSample]) -> list[Panel]:
    return [
        Panel(
            Text(document.text),
            title=f"document {document.number:,}, {document.num_tokens:,} tokens, "
            f"pack {document.pack} of {document.shard}",
            title_align="left",
        )
        for document in documents
    ]
