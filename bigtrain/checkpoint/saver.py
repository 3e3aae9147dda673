"""Saves an engine's state while training continues: one save at a time; all ranks call it alike.

A save has three parts. In a thread, each rank copies its boxes into host memory, before the next
update changes them, and writes them to its file. Each rank contributes its progress to the
all-reduce of every step, so that all ranks learn in the same step that all have written, or that
one has failed; no thread communicates. Then rank 0 commits, in a thread.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from bigtrain.checkpoint.background_task import BackgroundTask
from bigtrain.checkpoint.commit import check_commit
from bigtrain.checkpoint.disk_room import check_room
from bigtrain.checkpoint.retention import remove_old, set_aside
from bigtrain.checkpoint.save_errors import SaveError, explain, save_error
from bigtrain.checkpoint.schema import COMMIT_FILE, CheckpointError, StorageError, TrainState
from bigtrain.checkpoint.snapshot import HostCopy, boxes_to_save, read_one_by_one
from bigtrain.checkpoint.step_folders import final_name, named_folders, new_folder, step_of
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.checkpoint.writing import finish_checkpoint, write_boxes
from bigtrain.config.sections import CheckpointConfig
from bigtrain.engine.engine import Engine
from bigtrain.parallel.groups import on_rank_zero

log = logging.getLogger(__name__)

_LOG_SECONDS = 60.0
"""Seconds between two log lines about a save that training waits for."""


@dataclass(frozen=True, slots=True)
class SaveResult:
    """The result of a save; every rank has it."""

    step: int
    folder: Folder
    """The checkpoint, or where it would be if there was no error."""
    error: SaveError | None
    bytes: int
    """Bytes of the tensors, over all ranks."""
    stall_seconds: float
    """Seconds that training waited, on this rank."""
    seconds: float
    """Seconds from its start until all ranks knew that it had ended."""


class Saver:
    """Saves checkpoints of one engine into one folder."""

    def __init__(
        self,
        checkpoints: Folder,
        engine: Engine,
        *,
        policy: CheckpointConfig,
        tokenizer: bytes,
        attempt: int,
        device: torch.device,
    ) -> None:
        """Writes nothing yet.

        Args:
            checkpoints: Folder of the run's checkpoints.
            engine: The engine whose weights and moments are saved.
            policy: Which older checkpoints are kept.
            tokenizer: The tokenizer's file, written into each checkpoint.
            attempt: Number of the run's attempt; part of the names of uncommitted folders.
            device: Where the ranks compute.
        """
        self._checkpoints, self._engine, self._policy = checkpoints, engine, policy
        self._tokenizer, self._attempt, self._device = tokenizer, attempt, device
        self._copy = HostCopy()
        self._pending: _PendingSave | None = None
        self._cleaning: BackgroundTask | None = None
        self._results: list[SaveResult] = []
        self._bytes: int | None = None

    def begin(self, state: TrainState, *, copies: bool = True) -> None:
        """Begins a save; waits first for one that is still being written.

        Args:
            state: The training state.
            copies: Whether training continues before all is written. If not, call `finish` next.
        """
        started = time.perf_counter()
        self.finish()
        boxes = boxes_to_save(self._engine)
        if self._bytes is None:
            self._bytes = int(self._sum([sum(box.bytes for box in boxes)])[0])
        wanted = new_folder(self._checkpoints, state.step, attempt=self._attempt)
        pending = self._pending = _PendingSave(state, wanted, started)
        try:
            pending.folder, exists = on_rank_zero(lambda: self._prepare(wanted, state.step))
        except SaveError as error:
            self._complete(error=error)
            return
        if exists:
            self._complete()
            return

        def write() -> None:
            try:
                taken = self._copy.take(boxes, self._device) if copies else read_one_by_one(boxes)
            finally:
                pending.copied.set()
            write_boxes(pending.folder, taken, rank=dist.get_rank())

        pending.task = BackgroundTask(write)
        pending.stall = time.perf_counter() - started

    def contribution(self) -> Sequence[float]:
        """What this rank adds to the per-step all-reduce: written, failed, committed."""
        pending = self._pending
        if pending is None or pending.task is None or not pending.task.is_done:
            return 0.0, 0.0, 0.0
        failed = pending.task.error is not None
        written = not failed and not pending.commits
        return float(written), float(failed), float(not failed and pending.commits)

    def receive(self, sums: Sequence[float]) -> None:
        """Receives the sums over all ranks, before the update; waits until the copy is made."""
        pending = self._pending
        if pending is None:
            return
        started = time.perf_counter()
        pending.copied.wait()
        pending.stall += time.perf_counter() - started
        written, failed, committed = sums
        if pending.commits:
            if failed or committed:
                self._complete(error=self._abandon(pending) if failed else None)
        elif written + failed == dist.get_world_size():
            if failed:
                self._complete(error=self._abandon(pending))
            else:
                self._begin_commit(pending)

    def finish(self) -> None:
        """Waits for the end of the save that is being written, if there is one."""
        timeout, logged = 0.01, time.monotonic()
        while (pending := self._pending) is not None:
            started = time.perf_counter()
            if pending.task is not None:
                pending.task.wait(timeout)
            sums = self._sum(self.contribution())
            if dist.get_rank() == 0 and time.monotonic() - logged > _LOG_SECONDS:
                logged = time.monotonic()
                _log_waiting(pending, written=int(sums[0]))
            pending.stall += time.perf_counter() - started
            self.receive(sums)
            timeout = min(1.0, 1.5 * timeout)

    def save(self, state: TrainState) -> SaveResult:
        """Saves while training waits.

        Raises:
            SaveError: A rank could not write; no file of this checkpoint remains.
        """
        self.begin(state, copies=False)
        self.finish()
        saved = self._results[-1]
        if saved.error is not None:
            self.close()
            raise saved.error
        return saved

    def close(self) -> None:
        """Waits until the files of a failed save are removed; does not communicate."""
        if self._cleaning is not None:
            self._cleaning.wait()

    def pop_results(self) -> list[SaveResult]:
        """The results of saves that ended since the last call; as many on every rank."""
        results, self._results = self._results, []
        return results

    def _prepare(self, wanted: Folder, step: int) -> tuple[Folder, bool]:
        """Finds or makes the folder of a save; rank 0 calls it.

        Args:
            wanted: Where to write.
            step: The step of the save.

        Returns:
            Where to write, and False; or the complete checkpoint that already exists, and True.

        Raises:
            SaveError: The save cannot begin, for any reason; training may continue.
        """
        try:
            found = self._find_complete(step)
            return (self._make_folder(wanted, step), False) if found is None else (found, True)
        except Exception as error:
            raise save_error(wanted, error) from error

    def _find_complete(self, step: int) -> Folder | None:
        """The complete checkpoint of a step, if there is one; sets an incomplete one aside."""
        self.close()
        for folder in named_folders(self._checkpoints):
            if step_of(folder) != step:
                continue
            if _is_complete(folder):
                return folder
            now = set_aside(folder, f"bad-{self._attempt}")
            log.warning("%s cannot be read; it is now %s", folder, now)
        return None

    def _make_folder(self, wanted: Folder, step: int) -> Folder:
        self._checkpoints.make()
        assert self._bytes is not None
        check_room(wanted, parent=self._checkpoints, tensor_bytes=self._bytes)
        folder, number = wanted, self._attempt
        while not folder.renames and _was_committed(folder):
            # A checkpoint that was set aside in an object store keeps its folder.
            number += 1
            folder = new_folder(self._checkpoints, step, attempt=number)
        folder.remove()
        folder.make()
        return folder

    def _begin_commit(self, pending: "_PendingSave") -> None:
        def work() -> None:
            finish_checkpoint(
                pending.folder,
                parent=self._checkpoints,
                world_size=dist.get_world_size(),
                state=pending.state,
                tokenizer=self._tokenizer,
            )
            # This checkpoint is saved, even if older ones cannot be removed.
            try:
                remove_old(
                    self._checkpoints,
                    self._policy,
                    saved=pending.state.step,
                    first_skipped=pending.state.first_skipped,
                )
            except Exception as error:
                log.warning("older checkpoints were not removed: %s", error)

        pending.commits = True
        pending.task = BackgroundTask(work) if dist.get_rank() == 0 else None

    def _abandon(self, pending: "_PendingSave") -> SaveError:
        """Gathers why a save failed, on every rank, and removes its files to free the disk."""
        reason = pending.task.error if pending.task is not None else None
        reasons: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(reasons, None if reason is None else explain(reason))
        if dist.get_rank() == 0:
            self._cleaning = BackgroundTask(lambda: _clean(pending.folder))
        rank = next(number for number, text in enumerate(reasons) if text is not None)
        return save_error(pending.folder, f"rank {rank}: {reasons[rank]}")

    def _complete(self, *, error: SaveError | None = None) -> None:
        pending = self._pending
        assert pending is not None
        self._pending = None
        seconds = time.perf_counter() - pending.started
        self._results.append(
            SaveResult(
                step=pending.state.step,
                folder=self._checkpoints.child(final_name(pending.folder)),
                error=error,
                bytes=self._bytes or 0,
                stall_seconds=pending.stall,
                seconds=seconds,
            )
        )

    def _sum(self, numbers: Sequence[float]) -> list[float]:
        total = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        return total.tolist()


@dataclass
class _PendingSave:
    """A save that has begun and not ended."""

    state: TrainState
    folder: Folder
    started: float
    copied: threading.Event = field(default_factory=threading.Event)
    task: BackgroundTask | None = None
    commits: bool = False
    stall: float = 0.0


def _is_complete(folder: Folder) -> bool:
    try:
        check_commit(folder)
    except StorageError:
        raise
    except CheckpointError:
        return False
    return True


def _log_waiting(pending: _PendingSave, *, written: int) -> None:
    seconds, ranks = time.perf_counter() - pending.started, dist.get_world_size()
    doing = "being committed" if pending.commits else f"written by {written} of {ranks} ranks"
    log.warning("%s: %s after %.0f s; training waits for it", pending.folder, doing, seconds)


def _was_committed(folder: Folder) -> bool:
    return any(name.startswith("COMMIT") for name in folder.names())


def _clean(folder: Folder) -> None:
    """Removes a save that failed, COMMIT.json first: a store may have kept it despite an error."""
    try:
        folder.remove_file(COMMIT_FILE)
        folder.remove()
    except Exception as error:
        log.warning("%s was not removed: %s", folder, error)
