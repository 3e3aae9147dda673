"""Serves a rank its microbatches: the samples of a step, where the order says, ahead of time."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from bigtrain.config import RunConfig
from bigtrain.data.causal import CausalReader
from bigtrain.data.checks import check_sources, open_sources
from bigtrain.data.masked import PairReader
from bigtrain.data.microbatch import Batch
from bigtrain.data.order import Indices
from bigtrain.data.read_ahead import ReadAhead
from bigtrain.data.run_order import Places
from bigtrain.data.sources import run_order
from bigtrain.data.stages import StageRecord, record_stages
from bigtrain.parallel.layout import Layout

LOOK_AHEAD_BATCHES = 16
"""How far ahead storage is told what will be read."""


class TrainingData:
    """The samples of a run, for one data rank."""

    def __init__(self, config: RunConfig, *, layout: Layout, data_rank: int) -> None:
        """Opens the corpora of ``config.data`` and checks that they fit the model.

        Raises:
            ConfigError: A corpus or tokenizer does not fit the config.
        """
        self._config = config
        self._batch_size = config.train.global_batch_size
        self._mine = _share(config, copies=layout.data, data_rank=data_rank)
        self.sources, self.validation = open_sources(config)
        self.tokenizer = check_sources(config, self.sources, self.validation)
        self.order = run_order(config, self.sources)
        self._reader = (
            PairReader(config, tokenizer=self.tokenizer)
            if config.data.packing == "pairs"
            else CausalReader(config, special=self.tokenizer.special)
        )
        self._ahead = ReadAhead(
            self._read_batch, step=self._batch_size, workers=config.data.workers
        )
        self._advised_to = -(2**62)  # Nowhere near.
        self._advising = threading.Lock()

    @property
    def stages(self) -> list[StageRecord]:
        """What a checkpoint keeps of the data."""
        return record_stages(self._config, self.sources)

    def batch(self, consumed: int) -> Batch[Any]:
        """This rank's microbatches of the batch that begins after ``consumed`` samples.

        Raises:
            InputError: A corpus is damaged.
        """
        return self._ahead.get(consumed)

    def epochs(self, consumed: int) -> dict[str, float]:
        """How often each corpus has been read, after ``consumed`` samples."""
        names = [source.name for source in self.sources]
        return dict(zip(names, self.order.epochs(consumed), strict=True))

    def validation_batches(self) -> Iterator[Batch[Any]]:
        """This rank's share of the validation samples, in groups of microbatches, in order."""
        source = self.validation
        assert source is not None
        count = min(source.num_samples, self._config.validation.samples or source.num_samples)
        for first in range(0, count, self._batch_size):
            numbers = first + np.arange(self._batch_size)
            rows, zeros = np.minimum(numbers, count - 1), np.zeros_like(numbers)
            if source.table is not None:  # Its rows may stand by length: take them from all over.
                rows = rows * source.num_samples // count
            places = Places(numbers=numbers, sources=zeros, epochs=zeros, rows=rows)
            # Every rank runs as many microbatches: what is past the end weighs nothing.
            yield self._reader.read([source], places, mine=self._mine, counts=numbers < count)

    def close(self) -> None:
        """Stops reading ahead and closes the corpora's files."""
        self._ahead.close()
        for source in self.sources:
            source.close()
        if self.validation is not None:
            self.validation.close()

    def _read_batch(self, consumed: int) -> Batch[Any]:
        self._advise(consumed)
        return self._reader.read(self.sources, self._place(consumed), mine=self._mine)

    def _place(self, consumed: int) -> Places:
        return self.order.place(np.arange(consumed, consumed + self._batch_size))

    def _advise(self, consumed: int) -> None:
        """Tells storage what this rank will read, each batch once unless the run jumps."""
        reach = LOOK_AHEAD_BATCHES * self._batch_size
        ahead = consumed + reach
        with self._advising:
            # Threads ask out of order, by a few batches; a run that jumps is further off.
            jumped = not consumed - reach <= self._advised_to <= ahead + reach
            start = consumed if jumped else self._advised_to
            self._advised_to = ahead if jumped else max(ahead, self._advised_to)
        for first in range(start, ahead, self._batch_size):
            places = self._place(first)[self._mine]
            for number, source in enumerate(self.sources):
                source.will_need(places.rows[places.sources == number])


def _share(config: RunConfig, *, copies: int, data_rank: int) -> Indices:
    """Which samples of a batch are this rank's, microbatch after microbatch."""
    micro = config.train.micro_batch_size
    numbers = np.arange(config.train.global_batch_size).reshape(-1, copies, micro)
    return numbers[:, data_rank].reshape(-1)
