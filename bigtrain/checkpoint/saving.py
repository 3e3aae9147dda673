"""Saves and loads an engine's state, all ranks together."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from bigtrain.checkpoint.format import (
    FIRST_MOMENT,
    SECOND_MOMENT,
    TOKENIZER_FILE,
    WEIGHT,
    CheckpointError,
    TrainState,
    check_commit,
    commit,
    committed_folders,
    folder_name,
    read_state,
    write_state,
)
from bigtrain.checkpoint.planner import BoxLoadPlanner, BoxSavePlanner
from bigtrain.checkpoint.storage import BoxReader, BoxWriter
from bigtrain.engine.engine import Engine

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


def save_checkpoint(
    checkpoints: Path, engine: Engine, state: TrainState, *, tokenizer: Path, attempt: int
) -> Path:
    """Saves what a run needs to go on, without gathering any tensor; every rank calls it.

    Args:
        checkpoints: Folder of the run's checkpoints.
        engine: Whose weights and moments are saved.
        state: Where the run stands.
        tokenizer: The tokenizer's file, copied into the checkpoint.
        attempt: Number of the run's attempt; names the folder until it is committed.

    Returns:
        The committed folder. One that is there and whole is left as it is; one that is not is
        renamed, never deleted.

    Raises:
        CheckpointError: A rank could not write.
    """
    final = checkpoints / folder_name(state.step)
    temporary = checkpoints / f"{final.name}.tmp-{attempt}"
    rank = dist.get_rank()
    if _on_rank_zero(lambda: _is_saved(final, attempt)):
        return final
    if rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier()
    planner = BoxSavePlanner(engine.pieces(), writes_data_replicas=engine.is_first_data_rank)
    try:
        dcp.save({}, storage_writer=BoxWriter(temporary, rank=rank), planner=planner)
    except CheckpointException as error:
        raise CheckpointError(f"{temporary}: not saved: {_first_cause(error)}") from error
    if rank == 0:
        shutil.copyfile(tokenizer, temporary / TOKENIZER_FILE)
        write_state(temporary, state)
        commit(temporary, final)
    dist.barrier()
    return final


def find_checkpoint(checkpoints: Path) -> tuple[Path | None, list[str]]:
    """Picks the newest checkpoint that is committed and whole; all ranks get the same answer.

    Returns:
        The folder, or None when there is none, and one line for each newer one passed over.
    """
    return _on_rank_zero(lambda: _newest_whole(checkpoints))


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
    state = read_state(folder)
    with engine.writable_pieces() as pieces:
        try:
            dcp.load(
                {}, storage_reader=BoxReader(folder), planner=BoxLoadPlanner(pieces, kinds=kinds)
            )
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


def _newest_whole(checkpoints: Path) -> tuple[Path | None, list[str]]:
    passed_over = []
    for folder in committed_folders(checkpoints):
        try:
            check_commit(folder)
        except CheckpointError as error:
            passed_over.append(f"passed over {folder.name}: {error}")
            continue
        return folder, passed_over
    return None, passed_over


def _on_rank_zero(answer: Callable[[], Answer]) -> Answer:
    """What rank 0 answers, on every rank: shared file systems show things at different times."""
    box = [answer() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[return-value]


def _first_cause(error: CheckpointException) -> str:
    rank, (cause, _) = min(error.failures.items())
    return f"rank {rank}: {cause}"
