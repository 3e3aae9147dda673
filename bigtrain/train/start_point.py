"""Loads the state that an attempt starts from: its own checkpoint, another run's, or step 0."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.distributed as dist

from bigtrain.checkpoint.commit import no_complete_checkpoint_error, open_state
from bigtrain.checkpoint.find_checkpoint import find_checkpoint
from bigtrain.checkpoint.loading import HeadChange, load_checkpoint
from bigtrain.checkpoint.schema import CheckpointError, StorageError
from bigtrain.checkpoint.step_folders import named_folders
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.models.classifier import LEFT_OUT_HEADS, NEW_HEAD
from bigtrain.parallel.groups import on_rank_zero
from bigtrain.runs.resume_checks import check_checkpoints_not_lost, check_state, check_weights
from bigtrain.runs.run_folder import RunFolder
from bigtrain.train.trainer import Progress, Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StartPoint:
    """What an attempt started from."""

    checkpoint: Folder | None
    """None if it started from initial weights, at step 0."""
    is_own: bool = False
    """Whether it is the run's own checkpoint, not the one named by ``checkpoint.load``."""
    unreadable: list[Folder] = field(default_factory=list)
    """The run's newer checkpoints that cannot be read."""


def restore_trainer(
    trainer: Trainer, folder: RunFolder, checkpoints: Folder, *, accept_changes: Sequence[str]
) -> StartPoint:
    """Loads the run's current state into a trainer; every rank calls it.

    Args:
        trainer: The trainer, whose weights have no values yet.
        folder: The run folder, locked.
        checkpoints: The folder of the run's checkpoints.
        accept_changes: Keys that may differ from the checkpoint's.

    Raises:
        ConfigError: The checkpoint is of another run.
        CheckpointError: The run has checkpoints, or one to load, and none can be read; no file was
            changed.
    """
    unreadable: list[Folder] = []
    reasons: list[str] = []
    load = trainer.config.checkpoint.load
    for checkpoint in on_rank_zero(lambda: named_folders(checkpoints)):
        try:
            _resume_from(trainer, checkpoint, accept_changes)
        except StorageError:
            raise
        except CheckpointError as error:
            if dist.get_rank() == 0:
                log.warning("skipped %s: %s", checkpoint.name, error)
            unreadable.append(checkpoint)
            reasons.append(str(error))
            continue
        log.info("resumed from %s, at step %d", checkpoint, trainer.progress.step)
        if load is not None:
            log.info("checkpoint.load is ignored: the run has checkpoints of its own")
        return StartPoint(checkpoint, is_own=True, unreadable=unreadable)
    if unreadable:
        raise no_complete_checkpoint_error(checkpoints, reasons)
    on_rank_zero(lambda: check_checkpoints_not_lost(folder, checkpoints))
    if load is not None:
        return StartPoint(_start_from_another(trainer, load, accept_changes))
    trainer.engine.initialize()
    return StartPoint(None)


def _start_from_another(trainer: Trainer, load: str, accept_changes: Sequence[str]) -> Folder:
    checkpoint, skipped = on_rank_zero(lambda: find_checkpoint(load))
    for line in skipped if dist.get_rank() == 0 else ():
        log.warning("%s", line)
    has_moments = on_rank_zero(lambda: open_state(checkpoint).has_moments)
    if trainer.config.checkpoint.load_weights_only or not has_moments:
        _load_weights(trainer, checkpoint, accept_changes)
    else:
        _resume_from(trainer, checkpoint, accept_changes, forks=True)
    log.info("started from %s, at step %d", checkpoint, trainer.progress.step)
    return checkpoint


def _resume_from(
    trainer: Trainer, checkpoint: Folder, accept_changes: Sequence[str], *, forks: bool = False
) -> None:
    state = on_rank_zero(lambda: open_state(checkpoint))
    check_state(
        trainer.config,
        state,
        checkpoint=checkpoint,
        tokenizer_sha256=trainer.data.tokenizer.sha256,
        phases=trainer.data.phase_records,
        accepted=accept_changes,
        forks=forks,
    )
    load_checkpoint(checkpoint, trainer.engine)
    progress = Progress(step=state.step, samples=state.samples, tokens=state.tokens)
    trainer.restore(progress, guard=state.guard)


def _load_weights(trainer: Trainer, checkpoint: Folder, accept_changes: Sequence[str]) -> None:
    state = on_rank_zero(lambda: open_state(checkpoint))
    sha256 = trainer.data.tokenizer.sha256
    check_weights(
        trainer.config,
        state,
        checkpoint=checkpoint,
        tokenizer_sha256=sha256,
        accepted=accept_changes,
    )
    heads = HeadChange()
    if trainer.config.is_classifier:
        trainer.engine.initialize()  # The new head keeps its initial values.
        heads = HeadChange(new=(NEW_HEAD,), left_out=(*LEFT_OUT_HEADS, NEW_HEAD))
        log.info("the classifier's head begins anew; pretraining heads are left out")
    load_checkpoint(checkpoint, trainer.engine, weights_only=True, heads=heads)
