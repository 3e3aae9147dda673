"""Runs layout after layout, each in processes of its own, and says what came of it. No torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.sources import render_config
from bigtrain.parity.compare import (
    CompareError,
    Comparison,
    Tolerances,
    compare_records,
)
from bigtrain.parity.layouts import ALONE, Split, split_config
from bigtrain.parity.record import Record


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the ranks of a layout came to no good end; the message is one line."""

    message: str
    is_refusal: bool
    """Whether it is the config, or the machine, that does not allow the layout."""


StartRanks = Callable[[Path, int, Path], Problem | None]
"""Runs the ranks of a layout to their end: the config's file, how many, and where their records
go."""


class ParityError(RuntimeError):
    """One process alone failed, so there is nothing to compare with; the message is one line."""


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one layout."""

    split: Split
    comparison: Comparison | None = None
    failures: tuple[str, ...] = ()
    """Which figures are not within their tolerance."""
    refusal: str | None = None
    """Why the config does not allow the layout."""
    error: str | None = None
    """Why it came to no figures."""

    @property
    def is_good(self) -> bool:
        """Whether the layout gives the numbers of one process, or cannot be asked for."""
        return self.error is None and not self.failures


def compare_splits(
    config: RunConfig,
    splits: Sequence[Split],
    *,
    tolerances: Tolerances,
    folder: Path,
    start: StartRanks,
    tell: Callable[[str], None],
) -> Iterator[Row]:
    """Runs one process and then every layout, and compares each as it ends.

    Args:
        config: The run.
        splits: The layouts.
        tolerances: What passes.
        folder: Scratch; it holds the records of two layouts at most.
        start: Runs the ranks of one.
        tell: Says which is running.

    Raises:
        ConfigError: The config does not allow one process.
        ParityError: One process failed.
    """
    tell(f"{ALONE}, which {len(splits)} layouts are compared with")
    alone = measure_alone(config, folder=folder / "alone", start=start)
    for number, split in enumerate(splits, start=1):
        tell(f"layout {number} of {len(splits)}: {split.name}")
        own = folder / str(number)
        yield measure_split(
            config, split, alone=alone, tolerances=tolerances, folder=own, start=start
        )
        for boxes in own.glob("rank-*.bin"):
            boxes.unlink()


def measure_alone(config: RunConfig, *, folder: Path, start: StartRanks) -> Record:
    """Runs one process, which everything is held against.

    Raises:
        ConfigError: The config does not allow it.
        ParityError: It failed.
    """
    problem = _run(split_config(config, Split()), Split(), folder, start)
    if problem is not None:
        kind = ConfigError if problem.is_refusal else ParityError
        raise kind(f"one process, which all layouts are compared with: {problem.message}")
    return Record(folder)


def measure_split(
    config: RunConfig,
    split: Split,
    *,
    alone: Record,
    tolerances: Tolerances,
    folder: Path,
    start: StartRanks,
) -> Row:
    """Runs one layout and compares it."""
    try:
        problem = _run(split_config(config, split), split, folder, start)
    except ConfigError as error:
        return Row(split, refusal=str(error))
    if problem is not None and problem.is_refusal:
        return Row(split, refusal=problem.message)
    if problem is not None:
        return Row(split, error=problem.message)
    try:
        comparison = compare_records(Record(folder), alone, tolerances)
    except CompareError as error:
        return Row(split, error=str(error))
    return Row(split, comparison, failures=tuple(comparison.failures(tolerances)))


def _run(config: RunConfig, split: Split, folder: Path, start: StartRanks) -> Problem | None:
    folder.mkdir(parents=True)
    file = folder / "config.yaml"
    file.write_text(render_config(config), encoding="utf-8")
    return start(file, split.world_size, folder)
