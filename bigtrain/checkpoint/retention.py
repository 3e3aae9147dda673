"""Which checkpoints are kept, how the others go, and how a bad one is set aside. No torch."""

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
    steps: Sequence[int], *, keep_last: int | None, keep_every: int | None
) -> list[int]:
    """Steps whose checkpoints may go, oldest first: a pure function.

    Args:
        steps: Of all checkpoints.
        keep_last: How many of the newest stay; all where None.
        keep_every: Multiples of this stay as well.
    """
    if keep_last is None:
        return []
    older = sorted(set(steps))[:-keep_last]
    return [step for step in older if keep_every is None or step % keep_every]


def remove_old(checkpoints: Folder, policy: CheckpointConfig, *, saved: int) -> list[Folder]:
    """Removes what the policy does not keep, if what was saved last is whole.

    Args:
        checkpoints: Of a run.
        policy: How many stay.
        saved: The step that was saved just now. It stays, and is the newest that counts: whatever
            has a higher number could not be read when the run went on from before it.

    Returns:
        What was removed; each is told. A removal that fails is told, and tried again after the
        next save.
    """
    folders = [f for f in committed_folders(checkpoints) if step_of(f) <= saved]
    going = set(
        steps_to_remove(
            [step_of(folder) for folder in folders],
            keep_last=policy.keep_last,
            keep_every=policy.keep_every,
        )
    )
    if not going:
        return []
    try:
        if step_of(folders[0]) != saved:
            raise CheckpointError(f"{checkpoints}: the checkpoint of step {saved} is not there")
        open_state(folders[0])
    except CheckpointError as error:
        log.warning("nothing older is removed: %s", error)
        return []
    removed = []
    for left in (name for name in checkpoints.names() if is_being_removed(name)):
        with _told(checkpoints.child(left)):
            checkpoints.child(left).remove()
    for folder in reversed(folders):
        if step_of(folder) in going:
            with _told(folder):
                remove_checkpoint(folder)
                log.info("removed %s (checkpoint.keep_last=%s)", folder, policy.keep_last)
                removed.append(folder)
    return removed


def set_aside(folder: Folder, word: str) -> str:
    """Makes a checkpoint none, without deleting anything of it; returns what it is called now.

    Args:
        folder: The checkpoint, whole or not.
        word: Why and when, such as ``bad-3``.
    """
    if folder.renames:
        return folder.rename(f"{folder.name}.{word}").name
    marker = f"COMMIT.{word}.json"
    if folder.size(COMMIT_FILE) is not None:
        folder.write(marker, folder.read(COMMIT_FILE))
        folder.remove_file(COMMIT_FILE)
    return f"{folder.name} (with {marker} for its {COMMIT_FILE})"


def removal_name(folder: Folder) -> str:
    """What a checkpoint is called on a disk while it is deleted."""
    return f"{folder.name}.tmp-removed"


def is_being_removed(name: str) -> bool:
    """Whether a folder on a disk is what a removal has left that did not come to its end."""
    return bool(_UNFINISHED.match(name)) and name.endswith(".tmp-removed")


def remove_checkpoint(folder: Folder) -> None:
    """Deletes a checkpoint, so that a kill in the middle leaves nothing that looks like one."""
    if folder.renames:
        folder.rename(removal_name(folder)).remove()
    else:
        folder.remove_file(COMMIT_FILE)
        folder.remove()


def clear_unfinished(checkpoints: Folder) -> None:
    """Deletes what killed attempts have left of saves and removals."""
    for name in checkpoints.names():
        if not _UNFINISHED.match(name):
            continue
        folder = checkpoints.child(name)
        if checkpoints.renames and ".tmp-" not in name:
            continue
        if checkpoints.renames or not any(n.startswith("COMMIT") for n in folder.names()):
            folder.remove()


@contextmanager
def _told(folder: Folder) -> Iterator[None]:
    """A removal that fails is no reason to end a run."""
    try:
        yield
    except OSError as error:
        log.warning("%s was not removed: %s", folder, error)
