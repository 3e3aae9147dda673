"""Deletes checkpoints of a run on request, but never the last complete one. No torch."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bigtrain.checkpoint.dangling_links import check_links
from bigtrain.checkpoint.owner import check_may_change
from bigtrain.checkpoint.retention import removal_name, remove_checkpoint, steps_to_remove
from bigtrain.checkpoint.run_checkpoints import checkpoints_of_run
from bigtrain.checkpoint.schema import CheckpointError
from bigtrain.checkpoint.step_folders import CHECKPOINTS, committed_folders, step_of
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.commands.checkpoint.formatting import render_bytes
from bigtrain.commands.checkpoint.listing import folder_bytes, set_aside_folders
from bigtrain.commands.checkpoint.verify import verify_checkpoint
from bigtrain.config.saved import load_run_of
from bigtrain.runs.run_lock import run_lock


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """The user's request; if a number is None, the run's config sets it."""

    keep_last: int | None = None
    """How many of the newest checkpoints are kept."""
    keep_every: int | None = None
    """Checkpoints at multiples of this step are kept too."""
    set_aside: bool = field(default=False, kw_only=True)
    """Whether checkpoints that were set aside are deleted too."""


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """Which checkpoints are deleted, oldest first with their bytes, and how many are kept."""

    old: tuple[tuple[Folder, int], ...]
    set_aside: tuple[tuple[Folder, int], ...]
    newest: Folder | None
    num_kept: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """The result of pruning."""

    plan: PrunePlan
    removed: tuple[tuple[Folder, int], ...]
    failed: tuple[str, ...]
    """One line for each checkpoint that could not be removed."""


def run_of(place: str | Path) -> Path:
    """Finds the run folder from its path or from that of its folder of checkpoints.

    Raises:
        FolderError: The path is a dangling link.
        CheckpointError: It is neither, so the run's lock cannot be found.
    """
    path = Path(place)
    check_links(path)
    for run in (path, path.parent) if path.name == CHECKPOINTS else (path,):
        if (run / "config.yaml").is_file():
            return run
    raise CheckpointError(f"{place}: not a run folder; give one such as runs/gpt-tiny")


def plan_prune(run: Path, request: PruneRequest) -> PrunePlan:
    """Decides which checkpoints are deleted, and changes nothing.

    Raises:
        CheckpointError: Neither the user nor the config sets how many to keep.
        ConfigError: The checkpoints belong to another run; this run folder may be a copy of it.
    """
    policy = load_run_of(run).checkpoint
    keep_last = policy.keep_last if request.keep_last is None else request.keep_last
    keep_every = policy.keep_every if request.keep_every is None else request.keep_every
    if keep_last is None and not request.set_aside:
        raise CheckpointError(
            f"{run}: neither the run's checkpoint.keep_last nor --keep-last sets how many to keep; "
            "give --keep-last N"
        )
    check_may_change(run)
    checkpoints = checkpoints_of_run(run)
    folders = committed_folders(checkpoints)
    steps = [step_of(folder) for folder in folders]
    old = {*steps_to_remove(steps, keep_last=keep_last, keep_every=keep_every)}
    aside = set_aside_folders(checkpoints) if request.set_aside else []
    return PrunePlan(
        old=tuple((f, folder_bytes(f)) for f in reversed(folders) if step_of(f) in old),
        set_aside=tuple((folder, folder_bytes(folder)) for folder in aside),
        newest=folders[0] if folders else None,
        num_kept=sum(step not in old for step in steps),
    )


def prune(run: Path, request: PruneRequest) -> Pruned:
    """Deletes checkpoints, after every byte of the newest one was verified.

    Args:
        run: A run folder.
        request: The user's request.

    Raises:
        CheckpointError: The newest checkpoint is not complete; nothing is deleted.
        RunBusyError: Another process trains the run.
    """
    with run_lock(run):
        planned = plan_prune(run, request)
        everything = (*planned.old, *planned.set_aside)
        if everything:
            _check_newest(run, planned.newest)
        removed, failed, checkpoints = [], [], checkpoints_of_run(run)
        for folder, size in everything:
            problem = _remove(checkpoints, folder, is_aside=(folder, size) in planned.set_aside)
            if problem is None:
                removed.append((folder, size))
            else:
                failed.append(f"{folder} was not removed: {problem}")
        return Pruned(planned, tuple(removed), tuple(failed))


def render_plan(plan: PrunePlan) -> Iterator[str]:
    """Renders a line for each checkpoint that would be deleted, and a summary."""
    for folder, size in (*plan.old, *plan.set_aside):
        yield f"would remove {folder} ({render_bytes(size)})"
    yield f"would free {_sum((*plan.old, *plan.set_aside))}; {_render_kept(plan)}"


def render_pruned(result: Pruned) -> Iterator[str]:
    """Renders a line for each checkpoint that was deleted or could not be, and a summary."""
    yield from (f"removed {folder} ({render_bytes(size)})" for folder, size in result.removed)
    yield from result.failed
    yield f"freed {_sum(result.removed)}; {_render_kept(result.plan)}"


def _check_newest(run: Path, newest: Folder | None) -> None:
    if newest is None:
        raise CheckpointError(
            f"{run}: every checkpoint was set aside, so nothing is removed; "
            "rename one back, or delete them by hand"
        )
    faults = verify_checkpoint(newest).faults
    if faults:
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise CheckpointError(
            "nothing is removed, because the newest checkpoint is not complete: "
            f"{faults[0]}{more}; see `bigtrain checkpoint verify {shlex.quote(str(run))} --all`, "
            "and move that checkpoint away"
        )


def _remove(checkpoints: Folder, folder: Folder, *, is_aside: bool) -> str | None:
    """Removes a folder; returns why it could not be removed, else None."""
    renamed = checkpoints.child(removal_name(folder))
    try:
        if is_aside:
            folder.remove()
        else:
            renamed.remove()  # A kill may have left it from an earlier removal of this step.
            remove_checkpoint(folder)
        left = [each for each in (folder, renamed) if each.names()]
    except OSError as error:
        return error.strerror or str(error)
    return f"some of its files are left in {left[0]}" if left else None


def _sum(folders: Sequence[tuple[Folder, int]]) -> str:
    return render_bytes(sum(size for _, size in folders))


def _render_kept(plan: PrunePlan) -> str:
    kept = "1 checkpoint is kept" if plan.num_kept == 1 else f"{plan.num_kept} checkpoints are kept"
    return f"{kept}, the newest is {plan.newest.name}" if plan.newest is not None else kept
