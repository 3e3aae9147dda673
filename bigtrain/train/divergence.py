"""What is said of a skipped update, and the error of a run that skipped too many in a row."""

import shlex
from pathlib import Path

from bigtrain.train.trainer import StepResult


class DivergedError(RuntimeError):
    """Too many updates in a row were skipped: training longer would not help."""


def describe_skipped(result: StepResult) -> str:
    """Why the update of a step was skipped, and the samples of its batch."""
    assert result.skipped is not None
    return f"{result.skipped} ({_samples(result)})"


def diverged(
    result: StepResult, *, run: Path, in_a_row: int, first_skipped: int, checkpoint_step: int
) -> DivergedError:
    """The error that ends a run whose updates are skipped one after the other.

    Args:
        result: The last step.
        run: The run folder.
        in_a_row: How many updates in a row were skipped.
        first_skipped: The step of the first of them.
        checkpoint_step: The step of the newest checkpoint before it.
    """
    step = result.progress.step
    return DivergedError(
        f"step {step}: {in_a_row} updates in a row were skipped, the last one because "
        f"{describe_skipped(result)}; `bigtrain rewind {shlex.quote(str(run))} "
        f"--to {checkpoint_step} --skip-steps {first_skipped}:{step}` goes back and leaves their "
        "samples out; or lower optim.learning_rate or raise optim.warmup_steps "
        "(with --accept-change optim)"
    )


def _samples(result: StepResult) -> str:
    first, last = result.samples
    return f"samples {first} to {last}"
