"""Runs one layout after another, each in its own processes, and compares the results. No torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bigtrain.checkpoint.schema import CheckpointError
from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.config_files import render_config
from bigtrain.config.layout import ONE_PROCESS, Layout, config_in_layout
from bigtrain.parity.compare import (
    Comparison,
    Reference,
    Tolerances,
    compare_records,
    default_tolerances,
)
from bigtrain.parity.distance import CompareError
from bigtrain.parity.record import Record, perturbed_folder
from bigtrain.parity.rounding import PERTURBED_RUNS, measure_rounding


@dataclass(frozen=True, slots=True)
class LayoutFailure:
    """Why the ranks of a layout failed; the message is one line."""

    message: str
    is_refusal: bool
    """Whether the config or the machine does not allow the layout."""


class StartRanks(Protocol):
    """Runs the ranks of a layout until they end."""

    def __call__(
        self, config: Path, processes: int, folder: Path, *, perturbed_runs: int = 0
    ) -> LayoutFailure | None:
        """Runs the ranks.

        Args:
            config: The config file.
            processes: Number of ranks.
            folder: The folder for their records.
            perturbed_runs: Number of perturbed runs; see `bigtrain.parity.measure.measure`.
        """


class ParityError(RuntimeError):
    """The run in one process failed, so nothing can be compared. The message is one line."""


@dataclass(frozen=True, slots=True)
class LayoutResult:
    """The result of one layout."""

    layout: Layout
    comparison: Comparison | None = None
    failures: tuple[str, ...] = ()
    """The figures that are not within their tolerance."""
    refusal: str | None = None
    """Why the config does not allow the layout."""
    error: str | None = None
    """Why there are no figures."""

    @property
    def is_acceptable(self) -> bool:
        """Whether the layout gave the numbers of one process, or the config does not allow it."""
        return self.error is None and not self.failures


def compare_layouts(
    config: RunConfig,
    layouts: Sequence[Layout],
    *,
    reference: Reference,
    tolerances: Tolerances,
    folder: Path,
    start: StartRanks,
    report_progress: Callable[[str], None],
) -> Iterator[LayoutResult]:
    """Runs every layout, and compares each with one process when it ends.

    Args:
        config: The run's config.
        layouts: The layouts.
        reference: The result of `measure_one_process`.
        tolerances: The largest differences that pass.
        folder: A temporary folder; it holds the record of one layout at a time.
        start: Runs the ranks of a layout.
        report_progress: Receives a line when a layout starts.
    """
    for number, layout in enumerate(layouts, start=1):
        report_progress(f"layout {number} of {len(layouts)}: {layout.name}")
        own = folder / str(number)
        yield measure_layout(
            config, layout, reference=reference, tolerances=tolerances, folder=own, start=start
        )
        _remove_boxes(own)


def measure_one_process(config: RunConfig, *, folder: Path, start: StartRanks) -> Reference:
    """Runs one process, which all layouts are compared with, and measures the effect of rounding.

    Args:
        config: The run's config.
        folder: The folder for the record; it must not exist.
        start: Runs the process.

    Raises:
        ConfigError: The config does not allow one process.
        ParityError: The process failed.
    """
    problem = _run(
        config_in_layout(config, Layout()), Layout(), folder, start, perturbed_runs=PERTURBED_RUNS
    )
    if problem is not None:
        kind = ConfigError if problem.is_refusal else ParityError
        raise kind(f"one process, which all layouts are compared with: {problem.message}")
    perturbed = [perturbed_folder(folder, number) for number in range(1, PERTURBED_RUNS + 1)]
    try:
        record = Record(folder)
        rounding = measure_rounding(record, [Record(own) for own in perturbed])
    except CheckpointError as error:
        raise ParityError(f"{ONE_PROCESS}: its record cannot be read: {error}") from error
    for own in perturbed:
        _remove_boxes(own)
    return Reference(record, rounding, default_tolerances(config))


def measure_layout(
    config: RunConfig,
    layout: Layout,
    *,
    reference: Reference,
    tolerances: Tolerances,
    folder: Path,
    start: StartRanks,
) -> LayoutResult:
    """Runs one layout and compares it with one process."""
    try:
        problem = _run(config_in_layout(config, layout), layout, folder, start)
    except ConfigError as error:
        return LayoutResult(layout, refusal=str(error))
    if problem is not None and problem.is_refusal:
        return LayoutResult(layout, refusal=problem.message)
    if problem is not None:
        return LayoutResult(layout, error=problem.message)
    try:
        comparison = compare_records(Record(folder), reference, tolerances)
    except (CompareError, CheckpointError) as error:
        return LayoutResult(layout, error=str(error))
    return LayoutResult(layout, comparison, failures=tuple(comparison.failures(tolerances)))


def _run(
    config: RunConfig, layout: Layout, folder: Path, start: StartRanks, *, perturbed_runs: int = 0
) -> LayoutFailure | None:
    folder.mkdir(parents=True)
    file = folder / "config.yaml"
    file.write_text(render_config(config), encoding="utf-8")
    return start(file, layout.world_size, folder, perturbed_runs=perturbed_runs)


def _remove_boxes(folder: Path) -> None:
    for boxes in folder.glob("*/rank-*.bin"):
        boxes.unlink()
