"""Which source each sample comes from: fixed counts in each block of samples, phase after phase.

Within a phase, each block of 16,384 units holds every source in proportion to its weight, in an
order of its own. Each source continues where the previous phase stopped: no sample is repeated
or lost when weights change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bigtrain.data.corpus_order import Indices, keyed_hash, permute

UNITS_PER_BLOCK = 1 << 14


@dataclass(frozen=True, slots=True)
class MixturePhase:
    """The mixture from ``first_unit`` on: the units of each source in every block."""

    first_unit: int
    counts: tuple[int, ...]
    """One count for each source of the run, 0 for one that is not in the phase. The sum is
    ``UNITS_PER_BLOCK``."""


class Mixture:
    """Assigns the units of a run to sources; only the block of a unit is computed."""

    def __init__(self, phases: Sequence[MixturePhase], *, seed: int) -> None:
        """Fixes the mixture.

        Args:
            phases: In the order of ``first_unit``; the first begins at 0.
            seed: The run's seed.
        """
        assert phases and phases[0].first_unit == 0
        assert all(sum(phase.counts) == UNITS_PER_BLOCK for phase in phases)
        self._phases = tuple(phases)
        self._firsts = np.array([phase.first_unit for phase in phases])
        self._seed = seed
        self._pattern = lru_cache(maxsize=16)(self._make_pattern)
        self._taken_before = [np.zeros(len(phases[0].counts), dtype=np.int64)]
        for number in range(len(phases) - 1):
            length = self._phases[number + 1].first_unit - self._phases[number].first_unit
            self._taken_before.append(self._taken_before[-1] + self._taken(number, length))

    def assign(self, units: Indices) -> tuple[Indices, Indices]:
        """The source of each unit, and which unit of that source it is."""
        phases = np.searchsorted(self._firsts, units, side="right") - 1
        blocks, places = np.divmod(units - self._firsts[phases], UNITS_PER_BLOCK)
        sources, indices = np.empty_like(units), np.empty_like(units)
        for phase, block in {*zip(phases.tolist(), blocks.tolist(), strict=True)}:
            here = (phases == phase) & (blocks == block)
            pattern_sources, offsets = self._pattern(phase, block)
            chosen = pattern_sources[places[here]]
            counts = np.array(self._phases[phase].counts)
            sources[here] = chosen
            indices[here] = (
                self._taken_before[phase][chosen] + block * counts[chosen] + offsets[places[here]]
            )
        return sources, indices

    def taken(self, unit: int) -> Indices:
        """The number of units of each source before ``unit``."""
        phase = int(np.searchsorted(self._firsts, unit, side="right")) - 1
        return self._taken_before[phase] + self._taken(phase, unit - int(self._firsts[phase]))

    def _taken(self, phase: int, length: int) -> Indices:
        counts = np.array(self._phases[phase].counts, dtype=np.int64)
        blocks, rest = divmod(length, UNITS_PER_BLOCK)
        sources, _ = self._pattern(phase, blocks)
        return blocks * counts + np.bincount(sources[:rest], minlength=len(counts))

    def _make_pattern(self, phase: int, block: int) -> tuple[Indices, Indices]:
        """For each slot of a block: its source, and that source's units before it in the block."""
        counts = self._phases[phase].counts
        if max(counts) == UNITS_PER_BLOCK:
            places = np.arange(UNITS_PER_BLOCK)
            return np.full_like(places, counts.index(UNITS_PER_BLOCK)), places
        key = keyed_hash(f"{self._seed}/mixture/{self._phases[phase].first_unit}/{block}")
        slots = permute(np.arange(UNITS_PER_BLOCK), size=UNITS_PER_BLOCK, key=key)
        sources = np.searchsorted(np.cumsum(counts), slots, side="right").astype(np.int64)
        offsets = np.empty_like(sources)
        for source in np.unique(sources):
            here = sources == source
            offsets[here] = np.arange(here.sum())
        return sources, offsets


def counts_in_block(weights: Sequence[float]) -> tuple[int, ...]:
    """Splits a block among sources by weight (largest remainder method), at least 1 for each."""
    assert 0 < len(weights) <= UNITS_PER_BLOCK and min(weights) > 0
    exact = np.array(weights, dtype=np.float64) / sum(weights) * UNITS_PER_BLOCK
    counts = np.maximum(np.floor(exact), 1).astype(np.int64)
    while counts.sum() != UNITS_PER_BLOCK:
        short = counts.sum() < UNITS_PER_BLOCK
        gap = np.where(counts > 1, exact - counts, np.inf)
        counts[np.argmax(exact - counts) if short else np.argmin(gap)] += 1 if short else -1
    return tuple(counts.tolist())
