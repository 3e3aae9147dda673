"""The automatic rewind of a run after the loss guard gave up. No torch.

PaLM was restarted from a checkpoint about 100 steps before a loss spike, without the 200 to 500
batches around it (arXiv 2204.02311, section 5.1). Here the guard ends a spike after
``guard.stop_after`` steps, so how long it would have lasted is unknown: with the default of
``guard.rewind_steps`` 200 batches are skipped, half of them from the first skipped update on.
"""

from collections.abc import Sequence
from pathlib import Path

from bigtrain.checkpoint.step_folders import committed_folders, step_of
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.config.rewind_plan import RewindPlan
from bigtrain.runs.rewind import RewindResult, rewind_run
from bigtrain.runs.run_folder import RunFolder
from bigtrain.track.json_lines import read_lines


def plan_rewind(
    checkpoint_steps: Sequence[int],
    *,
    first: int,
    last: int,
    steps_around: int,
    began_at: int,
    saved_step: int = 0,
) -> RewindPlan:
    """Plans the rewind after the updates of some steps were skipped. Pure.

    It goes back to the newest checkpoint that is ``steps_around`` steps older than the first
    skipped update; else to the oldest checkpoint before that update, since older ones may have been
    deleted; else to the first checkpoint that was saved while updates were skipped, which has the
    weights from before them. It goes to the beginning only if no checkpoint was ever saved.

    Args:
        checkpoint_steps: The steps of the run's complete checkpoints.
        first: The step of the first skipped update.
        last: The step of the last one.
        steps_around: How many steps before ``first`` the skipped range begins, if the checkpoint
            allows it, and how many steps from ``first`` on it holds at least.
        began_at: The step at which the attempt began, for a run without a checkpoint.
        saved_step: The step of the newest checkpoint that the attempt loaded or saved; 0 if there
            was none. If that checkpoint is gone and no other can be used, the plan names it, and
            `rewind_run` refuses: a run must not lose all its steps unasked.
    """
    wanted = first - steps_around
    before = sorted(step for step in checkpoint_steps if step < first)
    old_enough = [step for step in before if step < wanted]
    inside = [step for step in checkpoint_steps if first <= step <= last]
    usable = old_enough[-1:] or before[:1] or sorted(inside)[:1]
    checkpoint = usable[0] if usable else saved_step
    # Samples that the checkpoint has read cannot be skipped.
    read = checkpoint if usable else began_at
    return RewindPlan(
        first_skipped=max(wanted, read + 1),
        last_skipped=max(last, first + steps_around - 1),
        checkpoint_step=checkpoint,
    )


def checkpoint_steps(checkpoints: Folder) -> list[int]:
    """The steps of the complete checkpoints of a run."""
    return [step_of(each) for each in committed_folders(checkpoints)]


def count_rewinds(folder: RunFolder) -> int:
    """How often the run was rewound automatically, by this or an earlier launch."""
    events = read_lines(folder.attempts) if folder.attempts.is_file() else ()
    return sum(
        each.get("event") == "decision" and each.get("action") == "rewind" for each in events
    )


def make_planned_rewind(run_dir: Path, plan: RewindPlan) -> RewindResult:
    """Takes a run back as planned; no process may be training it.

    Raises:
        RewindError, ConfigError, RunBusyError: See `rewind_run`.
    """
    return rewind_run(
        run_dir,
        to=plan.checkpoint_step,
        skip_steps=f"{plan.first_skipped}:{plan.last_skipped}",
        last_may_lie_ahead=True,
    )
