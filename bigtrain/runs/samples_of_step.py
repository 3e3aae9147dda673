"""Which samples a step of a run read, or would read, from the run's own record. No torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bigtrain.config import RunConfig
from bigtrain.config.saved import CONFIG_FILE, load_run_of
from bigtrain.data.sample_order import number_samples
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.skip_file import with_skips
from bigtrain.track.metrics_file import read_metrics


@dataclass(frozen=True, slots=True)
class StepSamples:
    """The batch of one step."""

    config: RunConfig
    """The config that the step was or will be taken with."""
    consumed: int
    """Samples consumed before the step."""
    was_taken: bool

    @property
    def count(self) -> int:
        """Number of samples in the batch."""
        return self.config.batch_size(self.consumed)

    @property
    def numbers(self) -> tuple[int, int]:
        """The numbers of its first and last sample in the run's order, skipped ones counted."""
        ends = np.array([self.consumed, self.consumed + self.count - 1])
        first, last = number_samples(ends, self.config.data.skip).tolist()
        return first, last


def find_step(folder: RunFolder, step: int) -> StepSamples:
    """Finds the batch of a step, already taken or still to come.

    Args:
        folder: A run folder with a config.
        step: The step, from 1.
    """
    lines = read_metrics(folder.metrics, "train") if folder.metrics.is_file() else []
    taken: dict[int, dict[str, Any]] = {line["step"]: line for line in lines}
    if step in taken:
        config = _config_of(folder, taken[step]["attempt"])
    else:  # A future step will use the config of the newest attempt.
        config = with_skips(load_run_of(folder.path), run_dir=folder.path)
    last = max((number for number in taken if number < step), default=0)
    consumed = taken[last]["samples"] if last else 0
    return StepSamples(config, _after(config, consumed, steps=step - 1 - last), step in taken)


def _config_of(folder: RunFolder, attempt: int) -> RunConfig:
    name = f"config-attempt-{attempt}.yaml"
    return load_run_of(folder.path, name if (folder.path / name).is_file() else CONFIG_FILE)


def _after(config: RunConfig, consumed: int, *, steps: int) -> int:
    """Samples consumed after ``steps`` more steps."""
    full = config.train.global_batch_size
    for left in range(steps, 0, -1):
        if config.batch_size(consumed) == full:  # Batches never shrink.
            return consumed + left * full
        consumed += config.batch_size(consumed)
    return consumed
