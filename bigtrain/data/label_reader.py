"""Reads microbatches of labelled text: rows of one or two texts, padded, with their classes."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import numpy.typing as npt
import torch

from bigtrain.config import RunConfig
from bigtrain.config.rules import PAIR_LENGTH_MULTIPLE
from bigtrain.data.corpus_order import Indices
from bigtrain.data.label_rows import LabelRows, label_rows, num_added_tokens
from bigtrain.data.label_source import LabelSource
from bigtrain.data.microbatch import LabelMicrobatch, RankBatch
from bigtrain.data.sample_order import SampleLocations
from data_tools.tokenizer import SpecialIds


class LabelReader:
    """Reads a rank's share of batches of labelled rows.

    All rows of a batch are padded to its longest row, on every rank alike: the shapes do not depend
    on the layout.
    """

    def __init__(self, config: RunConfig, *, special: SpecialIds) -> None:
        """Prepares how rows are read and padded.

        Args:
            config: The run's config.
            special: The tokenizer's special ids.
        """
        self._length = config.data.sequence_length
        self._micro = config.train.micro_batch_size
        self._special, self._adds_special = special, config.model.traits.reads_pairs

    def read(
        self,
        sources: Sequence[LabelSource],
        locations: SampleLocations,
        *,
        own: Indices,
        is_counted: npt.NDArray[np.bool_] | None = None,
    ) -> RankBatch[LabelMicrobatch]:
        """Reads a rank's share of a batch.

        Args:
            sources: The tables that ``locations`` refers to by number.
            locations: Where the samples of the whole batch are.
            own: Indices of the samples that this rank reads, microbatch after microbatch.
            is_counted: ``[batch]``: which samples count in the loss; None if all do.
        """
        width = self._padded_length(sources, locations)
        here = locations[own]
        parts = []
        for number in np.unique(here.sources):
            chosen = here.sources == number
            table = sources[int(number)].labels
            rows = label_rows(
                table.read(here.rows[chosen]),
                has_pairs=table.manifest.has_pairs,
                special=self._special,
                adds_special=self._adds_special,
                padded_length=width,
            )
            parts.append((np.flatnonzero(chosen), rows))
        joined = _in_order(parts, len(own))
        counted = np.ones(len(own), dtype=np.bool_) if is_counted is None else is_counted[own]
        shares = [slice(first, first + self._micro) for first in range(0, len(own), self._micro)]
        total = len(locations.rows) if is_counted is None else int(is_counted.sum())
        return RankBatch([_microbatch(joined, counted, share) for share in shares], total)

    def _padded_length(self, sources: Sequence[LabelSource], locations: SampleLocations) -> int:
        longest = 0
        for number in np.unique(locations.sources):
            table = sources[int(number)].labels
            bounds = table.bounds(locations.rows[locations.sources == number])
            added = num_added_tokens(
                has_pairs=table.manifest.has_pairs, adds_special=self._adds_special
            )
            longest = max(longest, int((bounds[:, 1] - bounds[:, 0]).max()) + added)
        padded = -(-longest // PAIR_LENGTH_MULTIPLE) * PAIR_LENGTH_MULTIPLE
        return min(padded, self._length)


def _in_order(parts: Sequence[tuple[Indices, LabelRows]], count: int) -> LabelRows:
    """Joins the rows of several tables, in the order of the batch."""
    if len(parts) == 1:
        return parts[0][1]
    found = {}
    for field in fields(LabelRows):
        first = getattr(parts[0][1], field.name)
        joined = np.empty((count, *first.shape[1:]), dtype=first.dtype)
        for places, rows in parts:
            joined[places] = getattr(rows, field.name)
        found[field.name] = joined
    return LabelRows(**found)


def _microbatch(rows: LabelRows, counted: npt.NDArray[np.bool_], share: slice) -> LabelMicrobatch:
    return LabelMicrobatch(
        tokens=torch.from_numpy(rows.tokens[share]),
        token_types=torch.from_numpy(rows.token_types[share]),
        padding_mask=torch.from_numpy(rows.padding_mask[share]),
        ends=torch.from_numpy(rows.lengths[share] - 1),
        labels=torch.from_numpy(rows.labels[share]),
        weights=torch.from_numpy(counted[share]).float(),
    )
