"""The next batches are read ahead, and reading stops after closing."""

import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest

from bigtrain.data.read_ahead import ReadAhead

PATIENCE_SECONDS = 20


def test_the_next_batches_are_read_before_they_are_requested() -> None:
    begun = {consumed: threading.Event() for consumed in range(0, 80, 8)}

    def read(consumed: int) -> int:
        begun[consumed].set()
        return consumed

    ahead = ReadAhead(read, size=lambda _: 8, workers=2)
    assert ahead.get(0) == 0
    for following in (8, 16, 24):
        assert begun[following].wait(PATIENCE_SECONDS), following
    ahead.close()
    assert not begun[40].is_set()


def test_waiting_batches_are_not_read_after_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = defaultdict[int, threading.Event](threading.Event)
    is_closing = threading.Event()

    def read(consumed: int) -> int:
        begun[consumed].set()
        assert not consumed or is_closing.wait(PATIENCE_SECONDS)
        return consumed

    shutdown = ThreadPoolExecutor.shutdown

    def shut_down(
        self: ThreadPoolExecutor, wait: bool = True, *, cancel_futures: bool = False
    ) -> None:
        shutdown(self, wait=False, cancel_futures=cancel_futures)
        is_closing.set()
        shutdown(self, wait=wait)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shut_down)
    ahead = ReadAhead(read, size=lambda _: 8, workers=1)
    ahead.get(0)
    assert begun[8].wait(PATIENCE_SECONDS)  # The read occupies the only thread until closing.
    ahead.close()
    assert sorted(begun) == [0, 8]


def test_a_batch_of_growing_size_starts_where_the_previous_one_ends() -> None:
    sizes = {0: 4, 4: 4, 8: 6, 14: 6}
    ahead = ReadAhead(lambda consumed: consumed, size=lambda n: sizes.get(n, 8), workers=2)
    assert [ahead.get(consumed) for consumed in (0, 4, 8, 14, 20, 28, 36)] == [
        *(0, 4, 8, 14, 20, 28, 36)
    ]
    ahead.close()


def test_a_batch_that_starts_inside_a_batch_read_ahead_is_read_again() -> None:
    ahead = ReadAhead(lambda consumed: consumed, size=lambda _: 8, workers=1)
    assert [ahead.get(consumed) for consumed in (0, 8, 4, 12)] == [0, 8, 4, 12]
    ahead.close()
