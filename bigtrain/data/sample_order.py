"""The order of all samples of a run: skips, then the mixture, then the order in each corpus."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

from bigtrain.config import ConfigError
from bigtrain.config.data import DataConfig, SkipConfig
from bigtrain.data.corpus_order import Indices, SourceOrder
from bigtrain.data.mixture import UNITS_PER_BLOCK, Mixture, MixturePhase, counts_in_block

_CHUNK = 4096  # Samples located at once, because one costs as much as a hundred.


@dataclass(frozen=True, slots=True)
class SampleLocations:
    """Where samples are; arrays of one length."""

    numbers: Indices
    """The sample's number in the order of the run, skipped ones counted."""
    sources: Indices
    epochs: Indices
    """How many times the source was read completely before the sample."""
    rows: Indices
    """The window of the source, or the row of its sample table."""

    def __getitem__(self, which: Indices) -> "SampleLocations":
        return SampleLocations(
            self.numbers[which], self.sources[which], self.epochs[which], self.rows[which]
        )


class SampleOrder:
    """The order of all samples of a run; pure arithmetic, the same on every rank."""

    def __init__(
        self,
        data: DataConfig,
        sources: Sequence[SourceOrder],
        *,
        seed: int,
        samples_per_unit: int = 1,
    ) -> None:
        """Prepares the order.

        Args:
            data: The phases and the skips.
            sources: The order of each corpus of ``data.training_corpora``.
            seed: The run's seed.
            samples_per_unit: Samples that are drawn together: 1, or the global batch size for rows
                that are drawn by length.

        Raises:
            ConfigError: A phase or a skip does not begin at the start of a unit.
        """
        self._sources, self._unit, self._skips = tuple(sources), samples_per_unit, data.skip
        for what, number in _unit_boundaries(data):
            if number % samples_per_unit:
                raise ConfigError(
                    f"{what}={number} is not a multiple of train.global_batch_size="
                    f"{samples_per_unit}: with packing {data.packing} a whole batch is drawn "
                    f"together; try {number // samples_per_unit * samples_per_unit}"
                )
        self.mixture = Mixture(plan_phases(data, samples_per_unit=samples_per_unit), seed=seed)
        self._chunk = lru_cache(maxsize=32)(self._locate_chunk)

    def locate(self, consumed: Indices) -> SampleLocations:
        """Locates samples in the corpora.

        Args:
            consumed: For each sample, how many samples are consumed before it. This is slow if the
                numbers are far from each other.
        """
        first, last = int(consumed.min()) // _CHUNK, int(consumed.max()) // _CHUNK
        locations = self._chunk(first)
        if last > first:
            parts = [self._chunk(chunk) for chunk in range(first, last + 1)]
            locations = SampleLocations(
                *(
                    np.concatenate([getattr(p, field.name) for p in parts])
                    for field in fields(SampleLocations)
                )
            )
        return locations[consumed - first * _CHUNK]

    def sample_numbers(self, consumed: Indices) -> Indices:
        """The number of each sample in the run, from the count of samples consumed before it."""
        return number_samples(consumed, self._skips)

    def epochs(self, consumed: int) -> list[float]:
        """How often each source has been read, after ``consumed`` samples."""
        if not consumed:
            return [0.0] * len(self._sources)
        last = int(self.sample_numbers(np.array([consumed - 1]))[0])
        taken = self.mixture.taken(last // self._unit + 1)
        return [
            count / source.units_per_epoch
            for count, source in zip(taken.tolist(), self._sources, strict=True)
        ]

    def _locate_chunk(self, chunk: int) -> SampleLocations:
        consumed = np.arange(chunk * _CHUNK, (chunk + 1) * _CHUNK, dtype=np.int64)
        numbers = self.sample_numbers(consumed)
        units, slots = np.divmod(numbers, self._unit)
        sources, indices = self.mixture.assign(units)
        epochs, rows = np.empty_like(numbers), np.empty_like(numbers)
        for source in np.unique(sources):
            here = sources == source
            epochs[here], rows[here] = self._sources[int(source)].rows(indices[here], slots[here])
        return SampleLocations(numbers, sources, epochs, rows)


def plan_phases(data: DataConfig, *, samples_per_unit: int) -> list[MixturePhase]:
    """Turns the weights of each phase into counts in a block, for all corpora of the run."""
    phases = []
    for phase in data.phases:
        counts = counts_in_block([source.weight for source in phase.sources])
        of_corpus = dict(zip((source.corpus for source in phase.sources), counts, strict=True))
        assert sum(counts) == UNITS_PER_BLOCK
        phases.append(
            MixturePhase(
                first_unit=phase.start_sample // samples_per_unit,
                counts=tuple(of_corpus.get(corpus, 0) for corpus in data.training_corpora),
            )
        )
    return phases


def number_samples(consumed: Indices, skips: Sequence[SkipConfig]) -> Indices:
    """The number of each sample in the run, skipped ones counted.

    Args:
        consumed: For each sample, how many samples were consumed before it.
        skips: Ranges in order, without overlap.
    """
    numbers = consumed.copy()
    for skip in skips:
        numbers[numbers >= skip.first_sample] += skip.samples
    return numbers


def _unit_boundaries(data: DataConfig) -> list[tuple[str, int]]:
    boundaries = [("data.stages: start_sample", phase.start_sample) for phase in data.phases]
    for skip in data.skip:
        boundaries += [
            ("data.skip: first_sample", skip.first_sample),
            ("data.skip: samples", skip.samples),
        ]
    return boundaries
