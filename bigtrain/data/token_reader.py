"""Reads microbatches for next-token prediction: windows of tokens, packed rows, answers."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import numpy.typing as npt
import torch

from bigtrain.config import RunConfig
from bigtrain.data.corpora import AnySource
from bigtrain.data.corpus_order import Indices
from bigtrain.data.label_source import LabelSource
from bigtrain.data.microbatch import Microbatch, RankBatch
from bigtrain.data.sample_order import SampleLocations
from bigtrain.data.token_rows import Rows, read_segments, read_windows
from data_tools.tokenizer import SpecialIds


class TokenReader:
    """Reads a rank's share of batches of windows, or of rows of a sample table."""

    def __init__(self, config: RunConfig, *, special: SpecialIds) -> None:
        """Prepares how rows are read and padded.

        Args:
            config: The run's config.
            special: The tokenizer's special ids.
        """
        self._length = config.data.sequence_length
        self._micro = config.train.micro_batch_size
        self._document_end = special.eos if config.data.document_attention else None
        self._pad = special.pad if special.pad >= 0 else special.eos
        self._ones = torch.ones(1, 1).expand(self._micro, self._length)

    def read(
        self,
        sources: Sequence[AnySource],
        locations: SampleLocations,
        *,
        own: Indices,
        is_counted: npt.NDArray[np.bool_] | None = None,
    ) -> RankBatch[Microbatch]:
        """Reads a rank's share of a batch.

        Args:
            sources: The corpora or label tables that ``locations`` refers to by number.
            locations: Where the samples of the whole batch are.
            own: Indices of the samples that this rank reads, microbatch after microbatch.
            is_counted: ``[batch]``: which samples count in the loss; None if all do.
        """
        rows = self._rows(sources, locations[own])
        share = None if is_counted is None else is_counted[own]
        microbatches = [
            self._microbatch(rows, share, slice(first, first + self._micro))
            for first in range(0, len(own), self._micro)
        ]
        return RankBatch(microbatches, _num_targets(sources, locations, is_counted, self._length))

    def _rows(self, sources: Sequence[AnySource], locations: SampleLocations) -> Rows:
        parts = []
        for number in np.unique(locations.sources):
            here = locations.sources == number
            parts.append((here, self._read(sources[int(number)], locations.rows[here])))
        return parts[0][1] if len(parts) == 1 else _interleave(parts)

    def _read(self, source: AnySource, rows: Indices) -> Rows:
        if isinstance(source, LabelSource):
            return source.read_answers(rows, pad=self._pad)
        if source.table is None:
            return read_windows(
                source.corpus,
                rows.tolist(),
                sequence_length=self._length,
                document_end=self._document_end,
            )
        segments = source.table.read(rows)
        return read_segments(source.corpus, segments, sequence_length=self._length, pad=self._pad)

    def _microbatch(
        self, rows: Rows, is_counted: npt.NDArray[np.bool_] | None, share: slice
    ) -> Microbatch:
        weights = self._ones
        if rows.weights is not None:
            weights = torch.from_numpy(rows.weights[share])
        if is_counted is not None:
            weights = weights * torch.from_numpy(is_counted[share]).float()[:, None]
        return Microbatch(
            tokens=torch.from_numpy(rows.tokens[share]),
            targets=torch.from_numpy(rows.targets[share]),
            weights=weights,
            positions=None if rows.positions is None else torch.from_numpy(rows.positions[share]),
            documents=None if rows.documents is None else torch.from_numpy(rows.documents[share]),
        )


def _interleave(parts: Sequence[tuple[npt.NDArray[np.bool_], Rows]]) -> Rows:
    """Joins rows of several sources, in the order of the batch."""
    found = {}
    for field in fields(Rows):
        arrays = [(here, getattr(rows, field.name)) for here, rows in parts]
        if arrays[0][1] is not None:
            first = arrays[0][1]
            joined = np.empty((len(arrays[0][0]), first.shape[1]), dtype=first.dtype)
            for here, array in arrays:
                joined[here] = array
            found[field.name] = joined
    return Rows(**found)


def _num_targets(
    sources: Sequence[AnySource],
    locations: SampleLocations,
    is_counted: npt.NDArray[np.bool_] | None,
    sequence_length: int,
) -> int:
    """Number of targets of a whole batch, from the sample tables, without a reduction."""
    total = 0
    for number, source in enumerate(sources):
        here = locations.sources == number
        rows = locations.rows[here if is_counted is None else here & is_counted]
        if isinstance(source, LabelSource):
            total += source.count_targets(rows)
        elif source.table is None:
            total += len(rows) * sequence_length
        elif len(rows):
            total += int(source.table.read(rows).lengths.sum())
    return total
