"""Runs tasks in several processes, which end when the process that started them ends."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")

_END_SECONDS = 5.0  # How long to wait for killed processes to end.


class WorkerPool:
    """Worker processes with a pipe to each; they share nothing, so any may be killed at any time.

    They ignore Ctrl-C, which all processes of a terminal receive; the process that started them
    ends them instead.
    """

    def __init__(self, workers: int) -> None:
        self._most = workers
        self._processes: list[SpawnProcess] = []
        self._pipes: list[Connection] = []

    def run(
        self, function: Callable[[Work], Result], items: Sequence[Work]
    ) -> Iterator[tuple[Work, Result]]:
        """Yields items as they are finished, as `run_each` describes."""
        while len(self._pipes) < min(self._most, len(items)):
            self._start_one()
        waiting, idle = deque(items), list(self._pipes)
        busy: dict[Any, Work] = {}
        while waiting or busy:
            while waiting and idle:
                pipe = idle.pop()
                busy[pipe] = waiting.popleft()
                with _report_dead_worker():
                    pipe.send((function, busy[pipe]))
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                with _report_dead_worker():
                    result, error = ready.recv()
                if error:
                    raise error
                idle.append(ready)
                yield busy.pop(ready), result

    def kill(self) -> None:
        """Ends the processes at once, whatever they are doing."""
        for process in self._processes:
            process.kill()
        deadline = time.monotonic() + _END_SECONDS
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for pipe in self._pipes:
            pipe.close()

    def _start_one(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        resource_tracker.ensure_running()  # If started later, it would unblock the signal again.
        with _delay_interrupts():
            # The process inherits the mask, so it ignores the signal from its first instruction on.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process.start()
                self._processes.append(process)
                self._pipes.append(ours)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                theirs.close()


@contextmanager
def open_pool(workers: int) -> Iterator[WorkerPool | None]:
    """Opens a pool of processes, which start when there is work; None for one worker."""
    if workers <= 1:
        yield None
        return
    pool = WorkerPool(workers)
    try:
        yield pool
    finally:
        pool.kill()


def run_each(
    function: Callable[[Work], Result], items: Sequence[Work], *, pool: WorkerPool | None
) -> Iterator[tuple[Work, Result]]:
    """Yields items as they are finished, each with its result.

    Args:
        function: A module-level function, or a partial of one, so that it can be pickled.
        items: The arguments of the calls.
        pool: The pool that calls it; None: this process. A pool cannot be used after an error.

    Raises:
        ChildProcessError: A worker was killed.
    """
    if pool is None:
        yield from ((item, function(item)) for item in items)
        return
    yield from pool.run(function, items)


@contextmanager
def _delay_interrupts() -> Iterator[None]:
    """Delays interrupts until the block ends, so that every started process is recorded.

    Blocking the signal is not enough: another thread, such as one of a math library, may receive
    it, and then Python's handler still runs in this thread.
    """
    if threading.current_thread() is not threading.main_thread():  # Other threads get no signals.
        yield
        return
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def _report_dead_worker() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise ChildProcessError(
            "a worker process was killed, perhaps because memory ran out: "
            "run the same command again to continue, with fewer workers"
        ) from error


def _serve(pipe: Connection) -> None:
    """Runs the calls that it receives through the pipe, until the pipe is closed."""
    _die_with_parent()
    while True:
        try:
            function, item = pipe.recv()
        except (EOFError, ConnectionError):
            return
        try:
            reply: tuple[Any, Exception | None] = (function(item), None)
        except Exception as error:
            error.add_note(f"In a worker process:\n{traceback.format_exc()}")
            reply = (None, error)
        pipe.send(reply)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
