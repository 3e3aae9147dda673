"""Saves an engine's state while it trains on: one save at a time, every rank the same calls.

A save has three parts. Each rank copies its boxes into host memory, which must be done before the
next update changes them, and writes them from there, both in a thread. What each rank has done
rides on the reduction that a step makes anyway, so that all ranks know in the same step when all
have written, or that one has failed; no thread communicates. Then rank 0 commits, in its thread.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from bigtrain.checkpoint.folder import Folder
from bigtrain.checkpoint.format import (
    COMMIT_FILE,
    CheckpointError,
    SaveError,
    StorageError,
    TrainState,
    check_commit,
    final_name,
    named_folders,
    new_folder,
    step_of,
)
from bigtrain.checkpoint.retention import (
    remove_old,
    set_aside,
)
from bigtrain.checkpoint.writing import HostCopy, boxes_to_write, finish_checkpoint, write_boxes
from bigtrain.config.sections import CheckpointConfig
from bigtrain.engine.engine import Engine
from bigtrain.parallel.groups import on_rank_zero

log = logging.getLogger(__name__)

_MORE_BYTES = 2**20
"""Room for all that is no tensor."""

_TELL_SECONDS = 60.0
"""Between two lines about a save that training waits for."""

_MAKE_ROOM = (
    "make room, or keep fewer checkpoints (checkpoint.keep_last, `bigtrain checkpoint prune`)"
)
_ANY_PLACE = "see that the place is there and writable, or set checkpoint.dir"
_REMEDIES = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
}


@dataclass(frozen=True, slots=True)
class Saved:
    """How a save ended, as every rank knows it."""

    step: int
    folder: Folder
    """The checkpoint; where it would be, if there was an error."""
    error: SaveError | None
    bytes: int
    """Of the tensors, over all ranks."""
    stall_seconds: float
    """How long training waited, on this rank."""
    seconds: float
    """From its beginning until all ranks knew its end."""


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
        """Readies it; nothing is touched.

        Args:
            checkpoints: Folder of the run's checkpoints.
            engine: Whose weights and moments are saved.
            policy: Which older ones are kept.
            tokenizer: The tokenizer's file, written into each checkpoint.
            attempt: Number of the run's attempt; names what is not committed yet.
            device: Where the ranks compute.
        """
        self._checkpoints, self._engine, self._policy = checkpoints, engine, policy
        self._tokenizer, self._attempt, self._device = tokenizer, attempt, device
        self._copy = HostCopy()
        self._flight: _Flight | None = None
        self._cleaning: _Task | None = None
        self._ended: list[Saved] = []
        self._bytes: int | None = None

    def begin(self, state: TrainState, *, copies: bool = True) -> None:
        """Begins a save, after the end of one that is still being written.

        Args:
            state: Where the run stands.
            copies: Whether training goes on before all is written. If not, call `finish` next.
        """
        started = time.perf_counter()
        self.finish()
        boxes = boxes_to_write(self._engine)
        if self._bytes is None:
            self._bytes = int(self._sum([sum(box.bytes for box in boxes)])[0])
        wanted = new_folder(self._checkpoints, state.step, attempt=self._attempt)
        flight = self._flight = _Flight(state, wanted, started)
        try:
            flight.folder, is_there = on_rank_zero(lambda: self._prepare(wanted, state.step))
        except SaveError as error:
            self._land(error=error)
            return
        if is_there:
            self._land()
            return

        def write() -> None:
            try:
                taken = self._copy.take(boxes, self._device) if copies else boxes
            finally:
                flight.copied.set()
            write_boxes(flight.folder, taken, rank=dist.get_rank())

        flight.task = _Task(write)
        flight.stall = time.perf_counter() - started

    def numbers(self) -> Sequence[float]:
        """What this rank adds to a reduction over all ranks: written, failed, committed."""
        flight = self._flight
        if flight is None or flight.task is None or not flight.task.is_done:
            return 0.0, 0.0, 0.0
        failed = flight.task.error is not None
        written = not failed and not flight.commits
        return float(written), float(failed), float(not failed and flight.commits)

    def take(self, sums: Sequence[float]) -> None:
        """Takes the sums over all ranks, before the update: waits for the copy, then goes on."""
        flight = self._flight
        if flight is None:
            return
        started = time.perf_counter()
        flight.copied.wait()
        flight.stall += time.perf_counter() - started
        written, failed, committed = sums
        if flight.commits:
            if failed or committed:
                self._land(error=self._abandon(flight) if failed else None)
        elif written + failed == dist.get_world_size():
            if failed:
                self._land(error=self._abandon(flight))
            else:
                self._begin_commit(flight)

    def finish(self) -> None:
        """Waits until the save that is being written, if there is one, has come to its end."""
        patience, told = 0.01, time.monotonic()
        while (flight := self._flight) is not None:
            started = time.perf_counter()
            if flight.task is not None:
                flight.task.wait(patience)
            sums = self._sum(self.numbers())
            if dist.get_rank() == 0 and time.monotonic() - told > _TELL_SECONDS:
                told = time.monotonic()
                _tell_waiting(flight, written=int(sums[0]))
            flight.stall += time.perf_counter() - started
            self.take(sums)
            patience = min(1.0, 1.5 * patience)

    def save(self, state: TrainState) -> Saved:
        """Saves while training waits.

        Raises:
            SaveError: A rank could not write; nothing of this checkpoint is left.
        """
        self.begin(state, copies=False)
        self.finish()
        saved = self._ended[-1]
        if saved.error is not None:
            self.close()
            raise saved.error
        return saved

    def close(self) -> None:
        """Waits until what is left of a save that failed is gone; no rank needs another for it."""
        if self._cleaning is not None:
            self._cleaning.wait()

    def ended(self) -> list[Saved]:
        """The saves that have come to their end since the last call, on every rank alike."""
        ended, self._ended = self._ended, []
        return ended

    def _prepare(self, wanted: Folder, step: int) -> tuple[Folder, bool]:
        """Makes room for a save.

        Args:
            wanted: Where to write.
            step: Of the save.

        Returns:
            Where to write, and False; or the whole checkpoint that is there already, and True.

        Raises:
            SaveError: It cannot be begun; whatever the reason, training may go on.
        """
        try:
            there = self._whole_or_set_aside(step)
            return (self._make_room(wanted, step), False) if there is None else (there, True)
        except Exception as error:
            raise _save_error(wanted, error) from error

    def _whole_or_set_aside(self, step: int) -> Folder | None:
        """The checkpoint of a step, if it is whole; one that is not is set aside."""
        self.close()
        for folder in named_folders(self._checkpoints):
            if step_of(folder) != step:
                continue
            if _is_whole(folder):
                return folder
            now = set_aside(folder, f"bad-{self._attempt}")
            log.warning("%s cannot be read; it is now %s", folder, now)
        return None

    def _make_room(self, wanted: Folder, step: int) -> Folder:
        self._checkpoints.make()
        assert self._bytes is not None
        free, needed = self._checkpoints.free_bytes(), self._bytes + self._bytes // 50 + _MORE_BYTES
        if free is not None and free < needed:
            raise SaveError(
                f"{self._checkpoints}/{final_name(wanted)}: not saved: it needs "
                f"{needed / 1e9:.3g} GB and {free / 1e9:.3g} GB are free; {_MAKE_ROOM}"
            )
        folder, number = wanted, self._attempt
        while not folder.renames and _was_committed(folder):
            # What was set aside in a store keeps its folder.
            number += 1
            folder = new_folder(self._checkpoints, step, attempt=number)
        folder.remove()
        folder.make()
        return folder

    def _begin_commit(self, flight: "_Flight") -> None:
        def work() -> None:
            finish_checkpoint(
                flight.folder,
                parent=self._checkpoints,
                world_size=dist.get_world_size(),
                state=flight.state,
                tokenizer=self._tokenizer,
            )
            # What happens to older ones, this one is saved.
            try:
                remove_old(self._checkpoints, self._policy, saved=flight.state.step)
            except Exception as error:
                log.warning("older checkpoints were not removed: %s", error)

        flight.commits = True
        flight.task = _Task(work) if dist.get_rank() == 0 else None

    def _abandon(self, flight: "_Flight") -> SaveError:
        """Every rank hears why; what is left of it would keep a full disk full."""
        reason = flight.task.error if flight.task is not None else None
        reasons: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(reasons, None if reason is None else _explain(reason))
        if dist.get_rank() == 0:
            self._cleaning = _Task(lambda: _clean(flight.folder))
        rank = next(number for number, text in enumerate(reasons) if text is not None)
        return _save_error(flight.folder, f"rank {rank}: {reasons[rank]}")

    def _land(self, *, error: SaveError | None = None) -> None:
        flight = self._flight
        assert flight is not None
        self._flight = None
        seconds = time.perf_counter() - flight.started
        self._ended.append(
            Saved(
                step=flight.state.step,
                folder=self._checkpoints.child(final_name(flight.folder)),
                error=error,
                bytes=self._bytes or 0,
                stall_seconds=flight.stall,
                seconds=seconds,
            )
        )

    def _sum(self, numbers: Sequence[float]) -> list[float]:
        total = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        return total.tolist()


@dataclass
class _Flight:
    """A save that is being written."""

    state: TrainState
    folder: Folder
    started: float
    copied: threading.Event = field(default_factory=threading.Event)
    task: "_Task | None" = None
    commits: bool = False
    stall: float = 0.0


class _Task:
    """Work in a thread, whose error is kept until somebody asks."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self._done = threading.Event()
        self._work = work
        # A daemon: what a dying process leaves half written has no commit.
        threading.Thread(target=self._run, daemon=True, name="checkpoint").start()

    @property
    def is_done(self) -> bool:
        """Whether it has come to its end, good or bad."""
        return self._done.is_set()

    def wait(self, seconds: float | None = None) -> None:
        """Returns when it has, or after so many seconds."""
        self._done.wait(seconds)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # Whatever it is, others wait for the end.
            self.error = error
        finally:
            self._done.set()


def _is_whole(folder: Folder) -> bool:
    try:
        check_commit(folder)
    except StorageError:
        raise
    except CheckpointError:
        return False
    return True


def _tell_waiting(flight: _Flight, *, written: int) -> None:
    seconds, ranks = time.perf_counter() - flight.started, dist.get_world_size()
    doing = "being committed" if flight.commits else f"written by {written} of {ranks} ranks"
    log.warning("%s: %s after %.0f s; training waits for it", flight.folder, doing, seconds)


def _was_committed(folder: Folder) -> bool:
    return any(name.startswith("COMMIT") for name in folder.names())


def _clean(folder: Folder) -> None:
    """Removes a save that failed: first the marker, which a store may have taken all the same."""
    try:
        folder.remove_file(COMMIT_FILE)
        folder.remove()
    except Exception as error:
        log.warning("%s was not removed: %s", folder, error)


def _save_error(folder: Folder, cause: BaseException | str) -> SaveError:
    if isinstance(cause, SaveError):
        return cause
    where = str(folder).removesuffix(folder.name) + final_name(folder)
    return SaveError(f"{where}: not saved: {cause if isinstance(cause, str) else _explain(cause)}")


def _explain(error: BaseException) -> str:
    """What went wrong, in one line, and what to do where we know it."""
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, OSError):
        return text
    if error.strerror is not None:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return f"{text}; {_REMEDIES.get(error.errno or 0, _ANY_PLACE)}"
