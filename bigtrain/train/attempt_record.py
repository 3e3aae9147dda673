"""What an attempt writes into the run folder: its start, its status while it runs, its end."""

import logging
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from bigtrain.checkpoint.owner import claim_checkpoints
from bigtrain.checkpoint.retention import clear_unfinished, set_aside
from bigtrain.checkpoint.step_folders import newest_attempt
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.config import RunConfig
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.run_lock import RankRefusedError, RunBusyError
from bigtrain.runs.skip_file import with_skips
from bigtrain.train.start_point import StartPoint
from bigtrain.train.trainer import Progress, StepResult

log = logging.getLogger(__name__)


def lock_run(folder: RunFolder, config: RunConfig) -> None:
    """Prevents other processes from training this run until this process ends.

    Raises:
        RankRefusedError: Another process trains it, or it was rewound after ``config`` was read.
    """
    try:
        folder.lock()
    except RunBusyError as error:
        raise RankRefusedError(str(error)) from None
    if with_skips(config) != config:
        raise RankRefusedError(
            f"{folder.path}: the run was rewound while this attempt started; start it again"
        )


def begin_attempt(
    folder: RunFolder, checkpoints: Folder, config: RunConfig, *, start: StartPoint, step: int
) -> int:
    """Records that an attempt begins, and sets unreadable checkpoints aside; rank 0 only.

    Args:
        folder: The run folder, locked.
        checkpoints: The folder of the run's checkpoints.
        config: The run.
        start: What the attempt started from.
        step: Steps taken so far.

    Returns:
        The attempt's number.
    """
    claim_checkpoints(config, checkpoints)
    number = folder.begin_attempt(
        config,
        world_size=dist.get_world_size(),
        step=step,
        loaded_from=None if start.checkpoint is None else str(start.checkpoint),
        after=newest_attempt(checkpoints),
        checkpoints=checkpoints if config.checkpoint.dir else None,
    )
    for checkpoint in start.unreadable:
        # If it kept its name, it would count as the newest when older ones are removed.
        log.warning("%s is now %s", checkpoint, set_aside(checkpoint, f"bad-{number}"))
    try:
        clear_unfinished(checkpoints)
    except OSError as error:
        # Saves may still work. If they do not, they report why.
        log.warning("%s: unfinished checkpoints were not removed: %s", checkpoints, error)
    return number


class StatusWriter:
    """Writes an attempt's status. A failed write is only a warning: it must not end the run."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def write(
        self,
        state: str,
        progress: Progress,
        *,
        last: StepResult | None,
        checkpoint: Folder | None,
        reason: str | None = None,
    ) -> None:
        """Replaces ``status.json``; while the run is ``running``, at most once a second.

        Args:
            state: ``running``, ``finished``, ``stopped`` or ``failed``.
            progress: How far the run is.
            last: The last step of this attempt, if it has taken one.
            checkpoint: The newest complete checkpoint.
            reason: Why it stopped or failed.
        """
        is_heartbeat = state == "running" and last is not None
        write = self._folder.write_heartbeat if is_heartbeat else self._folder.write_status
        _warn_if_not_written(
            "status.json",
            lambda: write(
                state=state,
                step=progress.step,
                loss=last and last.loss,
                tokens_per_second=last and last.tokens_per_second,
                last_checkpoint=checkpoint and str(checkpoint),
                reason=reason,
            ),
        )

    def keep(self, *, state: str, reason: str) -> int:
        """Replaces the state and the reason only, and returns the step that the status names."""
        before = self._folder.load_status()
        status = {"step": 0, "last_checkpoint": None, **before, "state": state, "reason": reason}
        _warn_if_not_written("status.json", lambda: self._folder.write_status(**status))
        return int(status["step"] or 0)

    def record_event(self, event: str, **values: Any) -> None:
        """Appends an event to ``attempts.jsonl``."""
        _warn_if_not_written("attempts.jsonl", lambda: self._folder.record_event(event, **values))

    def end_attempt(self, attempt: int, *, state: str, step: int, reason: str | None) -> None:
        """Appends the attempt's end to ``attempts.jsonl``."""
        _warn_if_not_written(
            "attempts.jsonl",
            lambda: self._folder.end_attempt(attempt, state=state, step=step, reason=reason),
        )


def _warn_if_not_written(name: str, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        log.warning("%s was not written: %s", name, error)
