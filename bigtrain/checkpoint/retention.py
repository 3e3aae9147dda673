"""Which checkpoints are kept, how others are removed, how a bad one is set aside. No torch."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bigtrain.checkpoint.commit import open_state
from bigtrain.checkpoint.schema import COMMIT_FILE, CheckpointError
from bigtrain.checkpoint.step_folders import committed_folders, step_of
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.config.sections import CheckpointConfig

log = logging.getLogger(__name__)

_UNFINISHED = re.compile(r"^step-\d{8,}(\.try-\d+)?\.tmp-\w+$|^step-\d{8,}\.try-\d+$")


def steps_to_remove(
    steps: Sequence[int],
    *,
    keep_last: int | None,
    keep_every: int | None,
    needed_before: int | None = None,
) -> list[int]:
    """Steps whose checkpoints may be removed, oldest first. Pure.

    Args:
        steps: The steps of all checkpoints.
        keep_last: How many of the newest are kept; None keeps all.
        keep_every: Multiples of this are kept as well.
        needed_before: The newest one before this step is kept as well.
    """
    if keep_last is None:
        return []
    older = sorted(set(steps))[:-keep_last]
    needed = max((step for step in steps if step < (needed_before or 0)), default=None)
    return [step for step in older if step != needed and (keep_every is None or step % keep_every)]


def remove_old(
    checkpoints: Folder,
    policy: CheckpointConfig,
    *,
    saved: int,
    first_skipped: int | None = None,
) -> list[Folder]:
    """Removes the checkpoints that the policy does not keep, if the last one is complete.

    Args:
        checkpoints: The folder of a run's checkpoints.
        policy: How many are kept.
        saved: The step that was saved just now. It is kept and counts as the newest: checkpoints
            of later steps could not be read when the run resumed from an earlier one.
        first_skipped: If updates are being skipped, the step of the first of them. One checkpoint
            before it is kept, in case the run has to be rewound.

    Returns:
        What was removed; each is logged. A removal that fails is logged, and tried again after
        the next save.
    """
    folders = [f for f in committed_folders(checkpoints) if step_of(f) <= saved]
    to_remove = set(
        steps_to_remove(
            [step_of(folder) for folder in folders],
            keep_last=policy.keep_last,
            keep_every=policy.keep_every,
            needed_before=first_skipped,
        )
    )
    if not to_remove:
        return []
    try:
        if step_of(folders[0]) != saved:
            raise CheckpointError(f"{checkpoints}: the checkpoint of step {saved} is not there")
        open_state(folders[0])
    except CheckpointError as error:
        log.warning("older checkpoints are not removed: %s", error)
        return []
    removed = []
    for unfinished in filter(is_being_removed, checkpoints.names()):
        with _errors_logged(checkpoints.child(unfinished)):
            checkpoints.child(unfinished).remove()
    for folder in reversed(folders):
        if step_of(folder) in to_remove:
            with _errors_logged(folder):
                remove_checkpoint(folder)
                log.info("removed %s (checkpoint.keep_last=%s)", folder, policy.keep_last)
                removed.append(folder)
    return removed


def set_aside(folder: Folder, suffix: str) -> str:
    """Renames a checkpoint so that it is not loaded; deletes nothing. Returns its new name.

    Args:
        folder: The checkpoint, complete or not.
        suffix: The reason and the attempt, such as ``bad-3``.
    """
    if folder.renames:
        return folder.rename(f"{folder.name}.{suffix}").name
    marker = f"COMMIT.{suffix}.json"
    if folder.size(COMMIT_FILE) is not None:
        folder.write(marker, folder.read(COMMIT_FILE))
        folder.remove_file(COMMIT_FILE)
    return f"{folder.name} (with {marker} for its {COMMIT_FILE})"


def removal_name(folder: Folder) -> str:
    """The name of a checkpoint on a disk while it is deleted."""
    return f"{folder.name}.tmp-removed"


def is_being_removed(name: str) -> bool:
    """Whether this is the name of a checkpoint whose deletion was not completed."""
    return bool(_UNFINISHED.match(name)) and name.endswith(".tmp-removed")


def remove_checkpoint(folder: Folder) -> None:
    """Deletes a checkpoint; if that is interrupted, the remains do not count as a checkpoint."""
    if folder.renames:
        folder.rename(removal_name(folder)).remove()
    else:
        folder.remove_file(COMMIT_FILE)
        folder.remove()


def clear_unfinished(checkpoints: Folder) -> None:
    """Deletes the remains of interrupted saves and removals."""
    for name in checkpoints.names():
        if not _UNFINISHED.match(name):
            continue
        folder = checkpoints.child(name)
        if checkpoints.renames and ".tmp-" not in name:
            continue
        if checkpoints.renames or not any(n.startswith("COMMIT") for n in folder.names()):
            folder.remove()


@contextmanager
def _errors_logged(folder: Folder) -> Iterator[None]:
    """Logs a removal that fails, so that it does not end the run."""
    try:
        yield
    except OSError as error:
        log.warning("%s was not removed: %s", folder, error)
