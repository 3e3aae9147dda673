"""Serves a rank its microbatches: windows of the token stream, cut where the order says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bigtrain.config import RunConfig
from bigtrain.data.checks import check_data, count_windows
from bigtrain.data.order import SampleOrder
from bigtrain.parallel.layout import Layout
from data_tools.corpus import Corpus, open_corpus


@dataclass(frozen=True, slots=True)
class Microbatch:
    """What one forward pass reads."""

    tokens: torch.Tensor
    """``[micro batch, sequence]``, int64."""
    targets: torch.Tensor
    """The token after each, same shape."""
    weights: torch.Tensor
    """1.0 where the loss of a target counts, 0.0 where it does not; same shape, fp32."""


class Windows:
    """A corpus cut into windows of ``sequence_length`` tokens, each with its targets."""

    def __init__(self, corpus: Corpus, *, sequence_length: int, name: str) -> None:
        """Opens the windows.

        Args:
            corpus: The corpus.
            sequence_length: Tokens in a window; its targets reach one token further.
            name: What to call the corpus in an error.

        Raises:
            ConfigError: The corpus is shorter than one window.
        """
        self.corpus = corpus
        self._length = sequence_length
        self.count = count_windows(corpus.num_tokens, sequence_length, name=name)

    def read(self, windows: Sequence[int], weights: Sequence[float]) -> Microbatch:
        """Reads windows as one microbatch; each counts with its weight."""
        rows = np.empty((len(windows), self._length + 1), dtype=np.int64)
        for row, window in zip(rows, windows, strict=True):
            start = int(window) * self._length
            row[:] = self.corpus.read(start, start + self._length + 1)
        tokens = torch.from_numpy(rows)
        return Microbatch(
            tokens=tokens[:, :-1].contiguous(),
            targets=tokens[:, 1:].contiguous(),
            weights=torch.tensor(weights, dtype=torch.float32)[:, None].expand(-1, self._length),
        )


class TrainingData:
    """The samples of a run, for one data rank."""

    def __init__(self, config: RunConfig, *, layout: Layout, data_rank: int) -> None:
        """Opens the corpora of ``config.data`` and checks that they fit the model.

        Raises:
            ConfigError: A corpus or tokenizer does not fit the config.
        """
        self._config, self._layout, self._data_rank = config, layout, data_rank
        length = config.data.sequence_length
        self.train = Windows(
            _open(config, config.data.train), sequence_length=length, name=config.data.train
        )
        self.validation = None
        if config.data.validation is not None:
            corpus = _open(config, config.data.validation)
            self.validation = Windows(corpus, sequence_length=length, name=config.data.validation)
        self.tokenizer = check_data(config)
        self.order = SampleOrder(
            num_windows=self.train.count,
            seed=config.seed,
            fingerprint=self.train.corpus.manifest.fingerprint,
            sequence_length=length,
        )

    def batch(self, consumed: int) -> list[Microbatch]:
        """This rank's microbatches of the batch that begins at sample ``consumed``."""
        return [
            self.train.read(self.order.windows(numbers).tolist(), [1.0] * len(numbers))
            for numbers in self._share(consumed, self._config.train.global_batch_size)
        ]

    def validation_batches(self) -> Iterator[list[Microbatch]]:
        """This rank's share of the validation samples, in groups of microbatches, in order."""
        assert self.validation is not None
        count = min(self.validation.count, self._config.validation.samples or self.validation.count)
        per_batch = self._config.train.global_batch_size
        for first in range(0, count, per_batch):
            # Every rank runs as many microbatches: what is past the end weighs nothing.
            yield [
                self.validation.read(
                    [min(n, count - 1) for n in numbers], [float(n < count) for n in numbers]
                )
                for numbers in self._share(first, per_batch)
            ]

    def _share(self, first: int, size: int) -> Iterator[range]:
        micro, copies = self._config.train.micro_batch_size, self._layout.data
        for microbatch in range(size // (micro * copies)):
            start = first + microbatch * copies * micro + self._data_rank * micro
            yield range(start, start + micro)

    def close(self) -> None:
        """Closes the corpora's files."""
        self.train.corpus.close()
        if self.validation is not None:
            self.validation.corpus.close()


def _open(config: RunConfig, folder: str) -> Corpus:
    return open_corpus(Path(folder), verify=config.data.verify)
