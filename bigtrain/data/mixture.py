"""Which source each sample comes from: whole counts per block of samples, stage after stage.

Within a stage every 16,384 units hold each source as often as its weight says, in an order of
their own. Each source is read from where the stage before left it: nothing is repeated or lost
when weights change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bigtrain.data.corpus_order import Indices, keyed_hash, permute

UNITS_PER_BLOCK = 1 << 14


@dataclass(frozen=True, slots=True)
class MixturePhase:
    """From ``first_unit`` on, this many units of each source in every block."""

    first_unit: int
    counts: tuple[int, ...]
    """One for each source of the run, 0 where the stage has none of it; they sum to a block."""


class Mixture:
    """Sends the units of a run to sources, in closed form but for the block that it stands in."""

    def __init__(self, stages: Sequence[MixturePhase], *, seed: int) -> None:
        """Fixes the mixture.

        Args:
            stages: In the order of ``first_unit``; the first begins at 0.
            seed: The run's seed.
        """
        assert stages and stages[0].first_unit == 0
        assert all(sum(stage.counts) == UNITS_PER_BLOCK for stage in stages)
        self._stages = tuple(stages)
        self._firsts = np.array([stage.first_unit for stage in stages])
        self._seed = seed
        self._pattern = lru_cache(maxsize=16)(self._make_pattern)
        self._taken_before = [np.zeros(len(stages[0].counts), dtype=np.int64)]
        for number in range(len(stages) - 1):
            length = self._stages[number + 1].first_unit - self._stages[number].first_unit
            self._taken_before.append(self._taken_before[-1] + self._taken(number, length))

    def assign(self, units: Indices) -> tuple[Indices, Indices]:
        """The source of each unit, and which unit of that source it is."""
        stages = np.searchsorted(self._firsts, units, side="right") - 1
        blocks, places = np.divmod(units - self._firsts[stages], UNITS_PER_BLOCK)
        sources, indices = np.empty_like(units), np.empty_like(units)
        for stage, block in {*zip(stages.tolist(), blocks.tolist(), strict=True)}:
            here = (stages == stage) & (blocks == block)
            pattern_sources, ranks = self._pattern(stage, block)
            chosen = pattern_sources[places[here]]
            counts = np.array(self._stages[stage].counts)
            sources[here] = chosen
            indices[here] = (
                self._taken_before[stage][chosen] + block * counts[chosen] + ranks[places[here]]
            )
        return sources, indices

    def taken(self, unit: int) -> Indices:
        """How many units of each source come before ``unit``."""
        stage = int(np.searchsorted(self._firsts, unit, side="right")) - 1
        return self._taken_before[stage] + self._taken(stage, unit - int(self._firsts[stage]))

    def _taken(self, stage: int, length: int) -> Indices:
        counts = np.array(self._stages[stage].counts, dtype=np.int64)
        blocks, rest = divmod(length, UNITS_PER_BLOCK)
        sources, _ = self._pattern(stage, blocks)
        return blocks * counts + np.bincount(sources[:rest], minlength=len(counts))

    def _make_pattern(self, stage: int, block: int) -> tuple[Indices, Indices]:
        """For each place of a block: its source, and how many of that source come before it."""
        counts = self._stages[stage].counts
        if max(counts) == UNITS_PER_BLOCK:
            places = np.arange(UNITS_PER_BLOCK)
            return np.full_like(places, counts.index(UNITS_PER_BLOCK)), places
        key = keyed_hash(f"{self._seed}/mixture/{self._stages[stage].first_unit}/{block}")
        slots = permute(np.arange(UNITS_PER_BLOCK), size=UNITS_PER_BLOCK, key=key)
        sources = np.searchsorted(np.cumsum(counts), slots, side="right").astype(np.int64)
        ranks = np.empty_like(sources)
        for source in np.unique(sources):
            here = sources == source
            ranks[here] = np.arange(here.sum())
        return sources, ranks


def whole_counts(weights: Sequence[float]) -> tuple[int, ...]:
    """Shares a block among sources by weight: largest remainders, and one at least for each."""
    assert 0 < len(weights) <= UNITS_PER_BLOCK and min(weights) > 0
    exact = np.array(weights, dtype=np.float64) / sum(weights) * UNITS_PER_BLOCK
    counts = np.maximum(np.floor(exact), 1).astype(np.int64)
    while counts.sum() != UNITS_PER_BLOCK:
        short = counts.sum() < UNITS_PER_BLOCK
        gap = np.where(counts > 1, exact - counts, np.inf)
        counts[np.argmax(exact - counts) if short else np.argmin(gap)] += 1 if short else -1
    return tuple(counts.tolist())
