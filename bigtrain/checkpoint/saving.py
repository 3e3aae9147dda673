"""Saves and loads an engine's state, all ranks together."""

import logging
import shutil
from pathlib import Path

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from bigtrain.checkpoint.format import (
    FIRST_MOMENT,
    SECOND_MOMENT,
    TOKENIZER_FILE,
    WEIGHT,
    CheckpointError,
    SaveError,
    TrainState,
    check_commit,
    commit,
    folder_name,
    read_state,
    write_state,
)
from bigtrain.checkpoint.planner import BoxLoadPlanner, BoxSavePlanner
from bigtrain.checkpoint.storage import BoxReader, BoxWriter
from bigtrain.engine.engine import Engine
from bigtrain.parallel.groups import on_rank_zero

log = logging.getLogger(__name__)


def save_checkpoint(
    checkpoints: Path, engine: Engine, state: TrainState, *, tokenizer: bytes, attempt: int
) -> Path:
    """Saves what a run needs to go on, without gathering any tensor; every rank calls it.

    Args:
        checkpoints: Folder of the run's checkpoints.
        engine: Whose weights and moments are saved.
        state: Where the run stands.
        tokenizer: The tokenizer's file, written into the checkpoint.
        attempt: Number of the run's attempt; names the folder until it is committed.

    Returns:
        The committed folder. One that is there and whole is left as it is; one that is not is
        renamed, never deleted.

    Raises:
        SaveError: A rank could not write; nothing of this checkpoint is left.
    """
    final = checkpoints / folder_name(state.step)
    temporary = checkpoints / f"{final.name}.tmp-{attempt}"
    if on_rank_zero(lambda: _is_saved(final, attempt)):
        return final
    try:
        on_rank_zero(lambda: temporary.mkdir(parents=True))
        planner = BoxSavePlanner(engine.pieces(), writes_data_replicas=engine.writes_data_replicas)
        writer = BoxWriter(temporary, rank=dist.get_rank())
        dcp.save({}, storage_writer=writer, planner=planner)
        on_rank_zero(lambda: _finish(temporary, final, state, tokenizer))
    except (CheckpointException, OSError) as error:
        # What is left of it would keep a full disk full.
        on_rank_zero(lambda: shutil.rmtree(temporary, ignore_errors=True))
        raise SaveError(f"{final}: not saved: {_first_cause(error)}") from error
    return final


def load_checkpoint(folder: Path, engine: Engine, *, weights_only: bool = False) -> TrainState:
    """Loads a checkpoint of any layout into the engine; every rank calls it.

    Args:
        folder: A committed checkpoint.
        engine: Whose weights and moments are overwritten.
        weights_only: Whether to leave the optimizer as new.

    Raises:
        CheckpointError: It does not fit the model, or fails a checksum.
    """
    kinds = (WEIGHT,) if weights_only else (WEIGHT, FIRST_MOMENT, SECOND_MOMENT)
    state = on_rank_zero(lambda: read_state(folder))
    with engine.writable_pieces() as pieces:
        planner = BoxLoadPlanner(pieces, kinds=kinds)
        try:
            dcp.load({}, storage_reader=BoxReader(folder), planner=planner)
        except CheckpointException as error:
            raise CheckpointError(f"{folder}: not loaded: {_first_cause(error)}") from error
    if not weights_only:
        engine.optimizer_steps = state.optimizer_steps
    return state


def _is_saved(final: Path, attempt: int) -> bool:
    if not final.exists():
        return False
    try:
        check_commit(final)
    except CheckpointError as error:
        aside = final.with_name(f"{final.name}.bad-{attempt}")
        final.rename(aside)
        log.warning("%s; it is now %s", error, aside.name)
        return False
    return True


def _finish(temporary: Path, final: Path, state: TrainState, tokenizer: bytes) -> None:
    (temporary / TOKENIZER_FILE).write_bytes(tokenizer)
    write_state(temporary, state)
    commit(temporary, final)


def _first_cause(error: Exception) -> str:
    if isinstance(error, CheckpointException):
        rank, (cause, _) = min(error.failures.items())
        return f"rank {rank}: {cause}"
    return str(error)
