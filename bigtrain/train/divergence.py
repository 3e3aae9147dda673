"""Messages: why an update was skipped, and why a run ends after too many skipped in a row."""

import shlex
from dataclasses import asdict
from pathlib import Path

from bigtrain.config.rewind_plan import RewindPlan
from bigtrain.train.trainer import StepResult


class DivergedError(RuntimeError):
    """Too many updates in a row were skipped; further training would not help."""

    def __init__(self, message: str, *, rewind: RewindPlan) -> None:
        super().__init__(message)
        self.rewind = rewind
        """The planned rewind, which skips the samples."""

    @property
    def divergence(self) -> dict[str, int]:
        """The planned rewind as JSON values, for the error file of the rank."""
        return asdict(self.rewind)


def describe_skipped(result: StepResult) -> str:
    """Why the update of a step was skipped, and the samples of its batch."""
    assert result.skipped is not None
    return f"{result.skipped} ({_samples(result)})"


def divergence_error(
    result: StepResult,
    *,
    run: Path,
    in_a_row: int,
    first_skipped: int,
    checkpoint_step: int,
    rewind: RewindPlan,
) -> DivergedError:
    """The error that ends a run after too many skipped updates in a row.

    Args:
        result: The last step.
        run: The run folder.
        in_a_row: How many updates in a row were skipped.
        first_skipped: The step of the first of them.
        checkpoint_step: The step of the newest checkpoint before it.
        rewind: The automatic rewind that would follow.
    """
    step = result.progress.step
    return DivergedError(
        f"step {step}: {in_a_row} updates in a row were skipped, the last one because "
        f"{describe_skipped(result)}; `bigtrain rewind {shlex.quote(str(run))} "
        f"--to {checkpoint_step} --skip-steps {first_skipped}:{step}` goes back and skips their "
        "samples; or lower optim.learning_rate or raise optim.warmup_steps "
        "(with --accept-change optim)",
        rewind=rewind,
    )


def _samples(result: StepResult) -> str:
    first, last = result.samples
    return f"samples {first} to {last}"
