"""The batches of one data rank, for training and validation, read before they are needed."""

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from bigtrain.config import RunConfig
from bigtrain.config.layout import Layout
from bigtrain.config.model_kinds import Packing
from bigtrain.data.corpora import AnySource, build_sample_order
from bigtrain.data.corpus_checks import check_sources, open_sources
from bigtrain.data.corpus_order import Indices
from bigtrain.data.label_reader import LabelReader
from bigtrain.data.microbatch import RankBatch
from bigtrain.data.pair_reader import PairReader
from bigtrain.data.phase_record import PhaseRecord, record_phases
from bigtrain.data.read_ahead import ReadAhead
from bigtrain.data.sample_order import SampleLocations
from bigtrain.data.token_reader import TokenReader
from data_tools.tokenizer import Tokenizer

LOOK_AHEAD_BATCHES = 16
"""Number of batches whose reads or fetches start in the background before they are needed."""


def _token_reader(config: RunConfig, tokenizer: Tokenizer) -> TokenReader:
    return TokenReader(config, special=tokenizer.special)


def _pair_reader(config: RunConfig, tokenizer: Tokenizer) -> PairReader:
    return PairReader(config, tokenizer=tokenizer)


def _label_reader(config: RunConfig, tokenizer: Tokenizer) -> LabelReader:
    return LabelReader(config, special=tokenizer.special)


_READERS: Mapping[Packing, Callable[[RunConfig, Tokenizer], Any]] = {
    "concat": _token_reader,
    "bestfit": _token_reader,
    "pad": _token_reader,
    "pairs": _pair_reader,
    "labels": _label_reader,
    "answers": _token_reader,
}


class TrainingData:
    """The samples of a run, for one data rank."""

    def __init__(self, config: RunConfig, *, layout: Layout, data_rank: int) -> None:
        """Opens the corpora of ``config.data`` and checks that they fit the model.

        Raises:
            ConfigError: A corpus or tokenizer does not fit the config.
        """
        self._config = config
        self._batch_ranks, self._data_rank = layout.batch_ranks, data_rank
        self._validation_size = config.train.global_batch_size
        self.sources, self.validation_sources = open_sources(config)
        self.tokenizer = check_sources(config, self.sources, self.validation_sources)
        self.order = build_sample_order(config, self.sources)
        self._reader = _READERS[config.data.packing](config, self.tokenizer)
        self._ahead = ReadAhead(
            self._read_batch, size=config.batch_size, workers=config.data.workers
        )
        self._advised_to = -(2**62)  # Far from any sample.
        self._advising = threading.Lock()

    @property
    def phase_records(self) -> list[PhaseRecord]:
        """The records of the data phases that a checkpoint keeps."""
        return record_phases(self._config, self.sources)

    def batch(self, consumed: int) -> RankBatch[Any]:
        """This rank's microbatches of the batch that begins after ``consumed`` samples.

        Raises:
            InputError: A corpus is damaged.
        """
        return self._ahead.get(consumed)

    def epochs(self, consumed: int) -> dict[str, float]:
        """How often each corpus has been read, after ``consumed`` samples."""
        names = [source.name for source in self.sources]
        return dict(zip(names, self.order.epochs(consumed), strict=True))

    def sample_numbers(self, consumed: int) -> tuple[int, int]:
        """The first and the last sample of a batch, in the order of the run."""
        last = consumed + self._config.batch_size(consumed) - 1
        first, last = self.order.sample_numbers(np.array([consumed, last])).tolist()
        return first, last

    def validation_batches(self, source: AnySource) -> Iterator[RankBatch[Any]]:
        """This rank's share of a validation corpus, in groups of microbatches, in order."""
        count = min(source.num_samples, self._config.validation.samples or source.num_samples)
        own = self._share(self._validation_size)
        for first in range(0, count, self._validation_size):
            numbers = first + np.arange(self._validation_size)
            rows, zeros = np.minimum(numbers, count - 1), np.zeros_like(numbers)
            if not source.is_stream:  # Rows may be sorted by length: take evenly spaced ones.
                rows = rows * source.num_samples // count
            locations = SampleLocations(numbers=numbers, sources=zeros, epochs=zeros, rows=rows)
            # Every rank runs the same number of microbatches; samples past the end have weight 0.
            yield self._reader.read([source], locations, own=own, is_counted=numbers < count)

    def close(self) -> None:
        """Stops reading ahead and closes the corpora's files."""
        self._ahead.close()
        for source in (*self.sources, *self.validation_sources):
            source.close()

    def _read_batch(self, consumed: int) -> RankBatch[Any]:
        self._advise(consumed)
        own = self._share(self._config.batch_size(consumed))
        batch: RankBatch[Any] = self._reader.read(self.sources, self._locate(consumed), own=own)
        return batch

    def _locate(self, consumed: int) -> SampleLocations:
        size = self._config.batch_size(consumed)
        return self.order.locate(np.arange(consumed, consumed + size))

    def _share(self, size: int) -> Indices:
        """Indices in a batch of the samples that this rank reads, microbatch after microbatch."""
        micro = self._config.train.micro_batch_size
        return np.arange(size).reshape(-1, self._batch_ranks, micro)[:, self._data_rank].reshape(-1)

    def _advise(self, consumed: int) -> None:
        """Starts this rank's coming reads or fetches in the background, each batch once."""
        reach = LOOK_AHEAD_BATCHES * self._config.train.global_batch_size
        with self._advising:
            # Threads ask for batches almost in order; a resumed or rewound run is further away.
            jumped = not consumed - reach <= self._advised_to <= consumed + 2 * reach
            following = consumed if jumped else self._advised_to
            starts = []
            while following < consumed + reach:
                starts.append(following)
                following += self._config.batch_size(following)
            self._advised_to = following
        for start in starts:
            locations = self._locate(start)[self._share(self._config.batch_size(start))]
            for number, source in enumerate(self.sources):
                source.will_need(locations.rows[locations.sources == number])
