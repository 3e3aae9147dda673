"""Which checkpoints are kept, and how the others go. No torch."""

import logging
from collections.abc import Sequence

from bigtrain.checkpoint.folder import Folder
from bigtrain.checkpoint.format import (
    CheckpointError,
    committed_folders,
    open_state,
    remove_checkpoint,
    step_of,
)
from bigtrain.config.sections import CheckpointConfig

log = logging.getLogger(__name__)


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


def remove_old(checkpoints: Folder, policy: CheckpointConfig) -> list[Folder]:
    """Removes what the policy does not keep, if the newest that stays is whole.

    Returns:
        What was removed. A removal that fails is told and tried again after the next save.
    """
    folders = committed_folders(checkpoints)
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
        open_state(folders[0])
    except CheckpointError as error:
        log.warning("nothing older is removed: %s", error)
        return []
    removed = []
    for folder in reversed(folders):
        if step_of(folder) in going:
            try:
                remove_checkpoint(folder)
            except OSError as error:
                log.warning("%s was not removed: %s", folder, error)
                continue
            removed.append(folder)
    return removed
