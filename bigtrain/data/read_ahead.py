"""Reads batches before their step, in threads of the rank's own process.

Threads are faster than worker processes here: no data is passed between processes, and reading
releases the interpreter lock.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class ReadAhead(Generic[Batch]):
    """Calls a function of the number of consumed samples before its result is needed."""

    def __init__(
        self, read: Callable[[int], Batch], *, size: Callable[[int], int], workers: int
    ) -> None:
        """Reads nothing yet.

        Args:
            read: Reads the batch that begins after so many samples; called from the threads.
            size: Number of samples in the batch that begins after so many samples.
            workers: Number of threads; with 0, ``get`` itself reads.
        """
        self._read, self._size, self._depth = read, size, workers and workers + 1
        self._threads = (
            ThreadPoolExecutor(workers, thread_name_prefix="read-ahead") if workers else None
        )
        self._waiting: deque[tuple[int, Future[Batch]]] = deque()

    def get(self, consumed: int) -> Batch:
        """The batch that begins after ``consumed`` samples.

        Raises:
            Exception: Any error of the function that reads it.
        """
        if self._threads is None:
            return self._read(consumed)
        if not self._waiting or self._waiting[0][0] != consumed:
            self._cancel_all()  # Not the batch that was expected: the run was resumed or rewound.
        following = self._after(self._waiting[-1][0]) if self._waiting else consumed
        while len(self._waiting) <= self._depth:
            self._waiting.append((following, self._threads.submit(self._read, following)))
            following = self._after(following)
        return self._waiting.popleft()[1].result()

    def close(self) -> None:
        """Waits for the batches that are being read, and drops them."""
        self._cancel_all()
        if self._threads is not None:
            self._threads.shutdown(wait=True)

    def _after(self, consumed: int) -> int:
        return consumed + self._size(consumed)

    def _cancel_all(self) -> None:
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
