"""Runs tasks in several processes, which live no longer than the one that started them."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")


@contextmanager
def open_pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Opens a pool of processes, which start when there is work; None for one worker."""
    if workers <= 1:
        yield None
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_die_with_parent,
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def run_each(
    function: Callable[[Work], Result], items: Sequence[Work], *, pool: ProcessPoolExecutor | None
) -> Iterator[tuple[Work, Result]]:
    """Yields items as they are finished, with what the function made of them.

    Args:
        function: A function of a module, or a partial of one, so that it can be sent.
        items: What to call it with.
        pool: Where to call it; None is this process.

    Raises:
        ChildProcessError: A worker was killed.
    """
    if pool is None:
        yield from ((item, function(item)) for item in items)
        return
    try:
        futures = {pool.submit(function, item): item for item in items}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process was killed, perhaps for want of memory: "
            "run the same command again to go on, with fewer workers"
        ) from error


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
