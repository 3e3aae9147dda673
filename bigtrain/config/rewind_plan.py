"""Where an automatic rewind goes, and which steps it skips; the loss guard plans it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RewindPlan:
    """The checkpoint that a run goes back to, and the steps whose samples it then skips."""

    first_skipped: int
    """The first step whose samples are skipped."""
    last_skipped: int
    """The last one, included; the run may not have taken this step yet."""
    checkpoint_step: int
    """The step of the checkpoint; 0 is the beginning of the run."""
