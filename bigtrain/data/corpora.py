"""The opened corpora of a run, as samples, and the order in which each is read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.data import DataConfig
from bigtrain.data.corpus_order import BucketOrder, Indices, SourceOrder, window_order
from bigtrain.data.label_source import LabelSource, open_label_source
from bigtrain.data.sample_order import SampleOrder
from bigtrain.data.split_facts import SplitFacts
from data_tools.corpus import Corpus, open_corpus
from data_tools.remote_files import Cache
from data_tools.samples.sample_table import (
    SAMPLES_FOLDER,
    SampleTable,
    load_sample_table,
    table_name,
)


@dataclass(frozen=True, slots=True)
class Source:
    """One opened corpus, as samples."""

    name: str
    corpus: Corpus
    table: SampleTable | None
    """The sample table; None where samples are windows of the token stream."""
    num_samples: int
    sequence_length: int

    @property
    def is_stream(self) -> bool:
        """Whether neighbouring samples are neighbours in the token stream."""
        return self.table is None

    @property
    def fingerprint(self) -> str:
        """Identifies the samples: the fingerprint of the corpus, or of its sample table."""
        return self.corpus.manifest.fingerprint if self.table is None else self.table.fingerprint

    @property
    def tokenizer_sha256(self) -> str:
        """The hash of the tokenizer that made the corpus."""
        return self.corpus.manifest.tokenizer.sha256

    @property
    def split_facts(self) -> SplitFacts:
        """How the corpus was split into training and validation."""
        manifest = self.corpus.manifest
        return SplitFacts(
            manifest.fingerprint, manifest.split, manifest.seed, manifest.validation_percent
        )

    def local_tokenizer(self) -> Path:
        """The corpus's copy of its tokenizer, fetched if the corpus is at a URL."""
        return self.corpus.local_file(self.corpus.manifest.tokenizer.file)

    def check_files(self) -> None:
        """Checks that every tar exists and has the size in the manifest.

        Raises:
            InputError: One does not.
        """
        self.corpus.check_files()

    def token_ranges(self, rows: Indices) -> list[tuple[int, int]]:
        """The ranges [start, stop) of the token stream that samples are read from."""
        if self.table is None:
            length, end = self.sequence_length, self.corpus.num_tokens
            return [(row * length, min((row + 1) * length + 1, end)) for row in rows.tolist()]
        segments = self.table.read(rows)
        stops = segments.starts + segments.lengths + (0 if self.table.mode == "pairs" else 1)
        return list(zip(segments.starts.tolist(), stops.tolist(), strict=True))

    def will_need(self, rows: Indices) -> None:
        """Starts to read or fetch samples that will be needed soon, in the background."""
        for start, stop in self.token_ranges(rows):
            self.corpus.will_need(start, stop)

    def close(self) -> None:
        """Closes the files."""
        self.corpus.close()
        if self.table is not None:
            self.table.close()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


AnySource = Source | LabelSource
"""What samples are read from."""


def open_source(data: DataConfig, name: str) -> AnySource:
    """Opens one corpus, with its sample table if the packing needs one, or one label table.

    Raises:
        ConfigError: The corpus is shorter than one sample, or the label table has longer rows.
        InputError: The corpus or the table cannot be read.
    """
    if data.packing == "labels" or data.packing == "answers":
        return open_label_source(name, packing=data.packing, sequence_length=data.sequence_length)
    corpus = open_configured_corpus(data, name)
    if data.packing == "concat":
        count = count_windows(corpus.num_tokens, data.sequence_length, name=name)
        return Source(name, corpus, None, count, data.sequence_length)
    corpus.local_folder(f"{SAMPLES_FOLDER}/{table_name(data.packing, data.sequence_length)}")
    table = load_sample_table(
        corpus.folder,
        mode=data.packing,
        sequence_length=data.sequence_length,
        corpus_fingerprint=corpus.manifest.fingerprint,
    )
    return Source(name, corpus, table, table.num_samples, data.sequence_length)


def count_windows(num_tokens: int, sequence_length: int, *, name: str) -> int:
    """Number of windows of ``sequence_length`` tokens, each with the token after it, in a stream.

    Raises:
        ConfigError: The stream is shorter than one window.
    """
    count = (num_tokens - 1) // sequence_length
    if count < 1:
        raise ConfigError(
            f"{name}: the corpus has {num_tokens} tokens, fewer than one sample of "
            f"data.sequence_length={sequence_length} and its target; shorten it or add text"
        )
    return count


def samples_per_unit(config: RunConfig) -> int:
    """Samples that are drawn together: a batch, if its samples have similar lengths, else 1."""
    return config.train.global_batch_size if config.data.draws_whole_batches else 1


def source_order(config: RunConfig, source: AnySource) -> SourceOrder:
    """The order in which a source's samples are read.

    Raises:
        ConfigError: The corpus has fewer rows than one batch.
    """
    if config.data.draws_whole_batches:
        assert isinstance(source, Source) and source.table is not None
        order = BucketOrder(
            source.table.buckets,
            batch=config.train.global_batch_size,
            identity=f"{config.seed}/{source.fingerprint}/{config.data.sequence_length}",
        )
        if not order.units_per_epoch:
            raise ConfigError(
                f"{source.name}: {source.num_samples} sentence pairs are fewer than one batch of "
                f"train.global_batch_size={config.train.global_batch_size}; lower it or add text"
            )
        return order
    return window_order(
        source.num_samples,
        seed=config.seed,
        fingerprint=source.fingerprint,
        sequence_length=config.data.sequence_length,
        # Rows of a table are not neighbours in the stream; `record_phases` records the same.
        shuffle=config.data.shuffle if source.is_stream else "windows",
    )


def build_sample_order(config: RunConfig, sources: Sequence[AnySource]) -> SampleOrder:
    """The order of all samples of a run."""
    return SampleOrder(
        config.data,
        [source_order(config, source) for source in sources],
        seed=config.seed,
        samples_per_unit=samples_per_unit(config),
    )


def open_configured_corpus(data: DataConfig, name: str) -> Corpus:
    """Opens one corpus with the cache and the checks of the config, without its sample table.

    Raises:
        InputError: The corpus cannot be read.
    """
    cache = Cache(limit_bytes=int(data.cache_gb * 1e9))
    if data.cache_dir is not None:
        cache = replace(cache, folder=Path(data.cache_dir))
    limit = max(1, data.max_open_files // len(data.training_corpora))
    return open_corpus(name, verify=data.verify, max_open_files=limit, cache=cache)
