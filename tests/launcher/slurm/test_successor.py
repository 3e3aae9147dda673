"""The next job of a chain is in the queue as long as the run continues, and never otherwise."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from launcher.slurm.errors import SlurmError, SlurmUnavailableError
from launcher.slurm.successor import Successor


class Queue:
    """SLURM's queue; it answers the first calls with errors."""

    def __init__(self, *problems: Exception) -> None:
        self.problems = list(problems)
        self.jobs: list[str] = []
        self.calls: list[str] = []
        self.proceeds = threading.Event()
        self.proceeds.set()

    def submit(self, job: str) -> str:
        self._answer("submit")
        assert self.proceeds.wait(10)
        self.jobs = ["8"]
        return "8"

    def cancel(self, job: str) -> list[str]:
        self._answer("cancel")
        self.jobs = []
        return []

    def _answer(self, call: str) -> None:
        self.calls.append(call)
        if self.problems:
            raise self.problems.pop(0)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.slurm.successor.RETRY_SECONDS", 0.001)


async def _until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


def _successor(queue: Queue) -> Successor:
    return Successor("7", queue.submit, queue.cancel)


@pytest.mark.parametrize("error", [SlurmUnavailableError, SlurmError, OSError])
def test_a_successor_that_was_not_submitted_is_submitted_later(error: type[Exception]) -> None:
    async def run() -> None:
        queue = Queue(error("no"), error("no"), error("no"))
        successor = _successor(queue)
        await successor.begin()
        assert successor.is_expected is (error is SlurmUnavailableError)
        await _until(lambda: queue.jobs)
        await _until(lambda: successor.job == "8")
        assert successor.is_expected and len(queue.calls) == 4

    asyncio.run(run())


def test_the_run_continues_if_the_controller_answers_before_the_end() -> None:
    async def run() -> None:
        queue = Queue(*[SlurmUnavailableError("down")] * 3)
        assert await _successor(queue).settle()
        assert queue.jobs == ["8"]

    asyncio.run(run())


def test_the_run_does_not_continue_if_slurm_refuses_the_successor() -> None:
    async def run() -> None:
        successor = _successor(Queue(SlurmError("job submit limit reached")))
        assert not await successor.settle()
        assert not successor.is_expected

    asyncio.run(run())


def test_a_released_successor_is_never_submitted_again() -> None:
    async def run() -> None:
        queue = Queue(SlurmUnavailableError("down"))
        successor = _successor(queue)
        await successor.begin()
        await successor.release()
        assert not successor.is_expected and not await successor.settle()
        assert "submit" not in queue.calls[queue.calls.index("cancel") :]

    asyncio.run(run())


def test_a_submission_that_is_being_made_is_cancelled_too() -> None:
    async def run() -> None:
        queue = Queue(SlurmUnavailableError("down"))
        successor = _successor(queue)
        await successor.begin()
        queue.proceeds.clear()
        await _until(lambda: len(queue.calls) == 2)
        releasing = asyncio.create_task(successor.release())
        queue.proceeds.set()
        await releasing
        assert queue.jobs == [] and queue.calls == ["submit", "submit", "cancel"]

    asyncio.run(run())


def test_the_successor_is_cancelled_once_when_the_controller_answers() -> None:
    async def run() -> None:
        queue = Queue()
        successor = _successor(queue)
        await successor.begin()
        queue.problems = [SlurmUnavailableError("down")] * 2
        await asyncio.gather(successor.release(), successor.release())
        assert queue.jobs == [] and queue.calls.count("cancel") == 3

    asyncio.run(run())
