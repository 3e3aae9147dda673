"""Deletes checkpoints of a run on a user's word, and never the last one that is whole. No torch."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from bigtrain.checkpoint.commands.inventory import folder_bytes, set_aside_folders
from bigtrain.checkpoint.commands.render import render_bytes
from bigtrain.checkpoint.commands.verify import verify_checkpoint
from bigtrain.checkpoint.dangling_links import check_links
from bigtrain.checkpoint.owner import check_may_change
from bigtrain.checkpoint.retention import removal_name, remove_checkpoint, steps_to_remove
from bigtrain.checkpoint.run_checkpoints import checkpoints_of_run
from bigtrain.checkpoint.schema import CheckpointError
from bigtrain.checkpoint.step_folders import CHECKPOINTS, committed_folders, step_of
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.config.saved import load_run_of

RunLock = Callable[[Path], AbstractContextManager[None]]
"""Keeps others from training the run in a folder."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for; where a number is None, the run's config says it."""

    keep_last: int | None = None
    """How many of the newest stay."""
    keep_every: int | None = None
    """Multiples of this step stay as well."""
    set_aside: bool = field(default=False, kw_only=True)
    """Whether what was set aside goes too."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes, oldest first, each with its bytes, and the newest that stays."""

    going: tuple[tuple[Folder, int], ...]
    set_aside: tuple[tuple[Folder, int], ...]
    newest: Folder | None
    staying: int
    """How many checkpoints stay."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of it."""

    plan: Plan
    removed: tuple[tuple[Folder, int], ...]
    failed: tuple[str, ...]
    """One line for each that could not be removed."""


def run_of(place: str | Path) -> Path:
    """The run folder that a user means by it, or by its folder of checkpoints.

    Raises:
        FolderError: It is a link to nothing.
        CheckpointError: It is neither, so that nobody could tell whether it is being trained.
    """
    path = Path(place)
    check_links(path)
    for run in (path, path.parent) if path.name == CHECKPOINTS else (path,):
        if (run / "config.yaml").is_file():
            return run
    raise CheckpointError(f"{place}: not a run folder; give one such as runs/gpt-tiny")


def plan_prune(run: Path, wish: Wish) -> Plan:
    """Decides what goes, and touches nothing.

    Raises:
        CheckpointError: Nobody says how many stay.
        ConfigError: The checkpoints are another run's, such as those of its original.
    """
    policy = load_run_of(run).checkpoint
    keep_last = policy.keep_last if wish.keep_last is None else wish.keep_last
    keep_every = policy.keep_every if wish.keep_every is None else wish.keep_every
    if keep_last is None and not wish.set_aside:
        raise CheckpointError(
            f"{run}: neither the run's checkpoint.keep_last nor --keep-last says how many stay; "
            "give --keep-last N"
        )
    check_may_change(run)
    checkpoints = checkpoints_of_run(run)
    folders = committed_folders(checkpoints)
    steps = [step_of(folder) for folder in folders]
    old = {*steps_to_remove(steps, keep_last=keep_last, keep_every=keep_every)}
    aside = set_aside_folders(checkpoints) if wish.set_aside else []
    return Plan(
        going=tuple((f, folder_bytes(f)) for f in reversed(folders) if step_of(f) in old),
        set_aside=tuple((folder, folder_bytes(folder)) for folder in aside),
        newest=folders[0] if folders else None,
        staying=sum(step not in old for step in steps),
    )


def prune(run: Path, wish: Wish, *, lock: RunLock) -> Pruned:
    """Deletes what may go, once the newest checkpoint has been read and is whole.

    Args:
        run: A run folder.
        wish: What the user asked for.
        lock: Keeps others from training it.

    Raises:
        CheckpointError: The newest that stays is not whole; nothing is deleted.
        RunBusyError: Somebody trains the run.
    """
    with lock(run):
        planned = plan_prune(run, wish)
        everything = (*planned.going, *planned.set_aside)
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


def render_plan(plan: Plan) -> Iterator[str]:
    """What would go."""
    for folder, size in (*plan.going, *plan.set_aside):
        yield f"would remove {folder} ({render_bytes(size)})"
    yield f"would free {_sum((*plan.going, *plan.set_aside))}; {_staying(plan)}"


def render_pruned(result: Pruned) -> Iterator[str]:
    """What went."""
    yield from (f"removed {folder} ({render_bytes(size)})" for folder, size in result.removed)
    yield from result.failed
    yield f"freed {_sum(result.removed)}; {_staying(result.plan)}"


def _check_newest(run: Path, newest: Folder | None) -> None:
    if newest is None:
        raise CheckpointError(
            f"{run}: there is no checkpoint but those set aside, so nothing is removed; "
            "bring one back, or delete them by hand"
        )
    faults = verify_checkpoint(newest).faults
    if faults:
        more = f" (and {len(faults) - 1} faults more)" if len(faults) > 1 else ""
        raise CheckpointError(
            f"nothing is removed, since the newest checkpoint is not whole: {faults[0]}{more}; "
            f"look with `bigtrain checkpoint verify {shlex.quote(str(run))} --all`, "
            "and move it away"
        )


def _remove(checkpoints: Folder, folder: Folder, *, is_aside: bool) -> str | None:
    """Why a folder could not be removed; None where it was."""
    renamed = checkpoints.child(removal_name(folder))
    try:
        if is_aside:
            folder.remove()
        else:
            renamed.remove()  # What a kill left of an earlier removal of this step.
            remove_checkpoint(folder)
        left = [each for each in (folder, renamed) if each.names()]
    except OSError as error:
        return error.strerror or str(error)
    return f"some of its files are left in {left[0]}" if left else None


def _sum(folders: Sequence[tuple[Folder, int]]) -> str:
    return render_bytes(sum(size for _, size in folders))


def _staying(plan: Plan) -> str:
    stay = "1 checkpoint stays" if plan.staying == 1 else f"{plan.staying} checkpoints stay"
    return f"{stay}, the newest {plan.newest.name}" if plan.newest is not None else stay
