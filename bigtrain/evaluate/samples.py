"""The samples of one corpus for one data rank: windows, packed rows or sentence pairs, in order."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from bigtrain.config import RunConfig
from bigtrain.config.layout import Layout
from bigtrain.data.corpora import Source, open_configured_corpus, open_source
from bigtrain.data.corpus_order import Indices
from bigtrain.data.microbatch import Microbatch
from bigtrain.data.pair_reader import PairReader
from bigtrain.data.sample_order import SampleLocations
from bigtrain.data.token_reader import TokenReader
from bigtrain.data.token_rows import Rows
from bigtrain.evaluate.windows import Windows
from data_tools.tokenizer import Tokenizer


class Samples(Protocol):
    """The samples of an opened corpus."""

    count: int

    def microbatches(
        self, rows: Indices, *, own: Indices, is_counted: npt.NDArray[np.bool_]
    ) -> list[Any]:
        """Reads a rank's share of a batch.

        Args:
            rows: The numbers of the samples of the whole batch.
            own: Indices in the batch of the samples that this rank reads.
            is_counted: ``[batch]``: which samples count.
        """


@contextmanager
def open_samples(
    config: RunConfig, name: str, *, tokenizer: Tokenizer, stride: int
) -> Iterator[Samples]:
    """Opens a corpus as samples of the run: windows, or rows of its sample table.

    Args:
        config: The config of the evaluation.
        name: The corpus.
        tokenizer: The run's tokenizer.
        stride: Tokens from one window to the next.

    Raises:
        InputError: The corpus or its sample table cannot be read.
    """
    if config.data.packing == "concat":
        with open_configured_corpus(config.data, name) as corpus:
            windows = Windows(
                corpus,
                length=config.data.sequence_length,
                stride=stride,
                special=tokenizer.special,
                separates_documents=config.data.separates_documents,
            )
            yield _WindowSamples(windows, micro_batch_size=config.train.micro_batch_size)
        return
    reader: TokenReader | PairReader = (
        PairReader(config, tokenizer=tokenizer)
        if config.model.traits.reads_pairs
        else TokenReader(config, special=tokenizer.special)
    )
    with open_source(config.data, name) as source:
        yield _TableSamples(source, reader)


def batches(
    samples: Samples, config: RunConfig, *, layout: Layout, data_rank: int
) -> Iterator[tuple[list[Any], int]]:
    """This rank's share of all samples, in order.

    Every rank gets the same number of microbatches; samples past the end have weight 0.

    Yields:
        The microbatches of a batch, and how many samples the whole batch counts.
    """
    size, micro = config.train.global_batch_size, config.train.micro_batch_size
    own = np.arange(size).reshape(-1, layout.batch_ranks, micro)[:, data_rank].reshape(-1)
    for first in range(0, samples.count, size):
        numbers = first + np.arange(size)
        is_counted = numbers < samples.count
        rows = np.minimum(numbers, samples.count - 1)
        yield samples.microbatches(rows, own=own, is_counted=is_counted), int(is_counted.sum())


class _WindowSamples:
    def __init__(self, windows: Windows, *, micro_batch_size: int) -> None:
        self._windows, self._micro = windows, micro_batch_size
        self.count = windows.count

    def microbatches(
        self, rows: Indices, *, own: Indices, is_counted: npt.NDArray[np.bool_]
    ) -> list[Microbatch]:
        found = []
        for first in range(0, len(own), self._micro):
            share = own[first : first + self._micro]
            found.append(to_microbatch(self._windows.read(rows[share].tolist()), is_counted[share]))
        return found


class _TableSamples:
    def __init__(self, source: Source, reader: TokenReader | PairReader) -> None:
        self._source, self._reader = source, reader
        self.count = source.num_samples

    def microbatches(
        self, rows: Indices, *, own: Indices, is_counted: npt.NDArray[np.bool_]
    ) -> list[Any]:
        zeros = np.zeros_like(rows)
        # The number of a sample is its row, so that its masks do not depend on the ranks.
        locations = SampleLocations(numbers=rows, sources=zeros, epochs=zeros, rows=rows)
        return self._reader.read(
            [self._source], locations, own=own, is_counted=is_counted
        ).microbatches


def to_microbatch(rows: Rows, is_counted: npt.NDArray[np.bool_]) -> Microbatch:
    """The tensors of rows that have weights.

    Args:
        rows: The rows.
        is_counted: ``[rows]``: which rows count.
    """
    assert rows.weights is not None
    weights = rows.weights * is_counted[:, None]
    return Microbatch(
        tokens=torch.from_numpy(rows.tokens),
        targets=torch.from_numpy(rows.targets),
        weights=torch.from_numpy(weights.astype(np.float32)),
        positions=None if rows.positions is None else torch.from_numpy(rows.positions),
        documents=None if rows.documents is None else torch.from_numpy(rows.documents),
    )
