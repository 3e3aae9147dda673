"""Requests to stop: which of several counts, and how long the ranks may save."""

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from launcher.supervisor.stops import StopWatch
from launcher.supervisor.values import StopCause
from tests.launcher.supervisor.fake_training import FakeScheduler


@pytest.fixture
def watch(tmp_path: Path) -> Callable[..., None]:
    """Runs a function with a watch that was started."""

    def run(body: Callable[[StopWatch], Awaitable[None]], scheduler: FakeScheduler) -> None:
        async def watched() -> None:
            made = StopWatch(scheduler, tmp_path, 60)
            made.start()
            await body(made)
            await made.close()

        asyncio.run(watched())

    return run


async def _until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


def _ask(watch: StopWatch, request: str) -> None:
    (watch.folder / "request.json").write_text(json.dumps({"request": request}))


@pytest.mark.parametrize("name", ["SIGUSR2", "SIGTERM"])
def test_a_user_s_request_during_the_save_before_a_requeue_counts(watch, name):
    scheduler = FakeScheduler(("n1",), cause=StopCause.PREEMPTED)

    async def body(stops: StopWatch) -> None:
        stops.on_signal(name)
        await stops.settle()
        assert not stops.is_by_user and "release" not in scheduler.calls
        _ask(stops, "cancel")
        await _until(lambda: stops.is_by_user)
        assert stops.stop.cause is StopCause.USER
        assert stops.stop.deadline < time.time() + 20

    watch(body, scheduler)
    assert "release" in scheduler.calls


@pytest.mark.parametrize("signal_is", ["first", "later", "lost"])
def test_a_requeue_by_the_user_is_not_taken_for_the_time_limit(watch, tmp_path, signal_is):
    async def body(stops: StopWatch) -> None:
        await asyncio.sleep(0.1)  # The file is read for the first time.
        if signal_is == "first":
            stops.on_signal("SIGUSR2")
        _ask(stops, "requeue")
        await _until(lambda: stops.stop and stops.stop.cause is StopCause.REQUEUE)
        if signal_is == "later":
            stops.on_signal("SIGUSR2")
        assert stops.stop.cause is StopCause.REQUEUE
        assert stops.stop.signal is signal.SIGUSR2 and not stops.is_by_user

    watch(body, FakeScheduler(("n1",)))
    assert not (tmp_path / "request.json").exists()


def test_the_cause_of_a_requeue_is_known_when_the_ranks_end_at_once(watch):
    async def body(stops: StopWatch) -> None:
        await asyncio.sleep(0.1)
        _ask(stops, "requeue")
        stops.on_signal("SIGUSR2")
        await stops.settle()
        assert stops.stop.cause is StopCause.REQUEUE

    watch(body, FakeScheduler(("n1",)))


def test_a_request_to_requeue_that_an_earlier_start_of_the_job_left_is_answered(watch, tmp_path):
    (tmp_path / "request.json").write_text('{"request": "requeue"}')

    async def body(stops: StopWatch) -> None:
        await _until(lambda: not (tmp_path / "request.json").exists())
        assert stops.stop is None

    watch(body, FakeScheduler(("n1",)))


def test_a_request_at_the_end_of_the_job_is_not_lost(watch, tmp_path):
    found = []

    async def body(stops: StopWatch) -> None:
        found.append(stops)
        stops.on_signal("SIGUSR2")
        await asyncio.sleep(0.1)  # The file is read for the first time.
        _ask(stops, "stop")

    watch(body, FakeScheduler(("n1",)))
    assert found[0].is_by_user and not (tmp_path / "request.json").exists()


def test_a_cancelled_job_has_no_successor_and_a_limit_for_its_save(watch):
    scheduler = FakeScheduler(("n1",), cause=StopCause.USER, kills_at=time.time() + 30)

    async def body(stops: StopWatch) -> None:
        stops.on_signal("SIGTERM")
        await _until(lambda: "release" in scheduler.calls)
        await _until(lambda: stops.stop.deadline)
        assert abs(stops.stop.deadline - scheduler.kills_at + 10) < 1

    watch(body, scheduler)


def test_the_successor_of_a_preempted_job_stays(watch):
    scheduler = FakeScheduler(("n1",), cause=StopCause.PREEMPTED)

    async def body(stops: StopWatch) -> None:
        stops.on_signal("SIGTERM")
        await stops.settle()
        assert stops.stop.cause is StopCause.PREEMPTED

    watch(body, scheduler)
    assert scheduler.calls == []


def test_the_time_limit_is_asked_for_until_it_is_known(watch, monkeypatch):
    monkeypatch.setattr("launcher.supervisor.stops.NO_CLOCK_SECONDS", 0.01)
    scheduler = FakeScheduler(("n1",))

    async def body(stops: StopWatch) -> None:
        await asyncio.sleep(0.1)
        scheduler.ends_at = time.time() + 30
        await _until(lambda: stops.stop)
        assert stops.stop.cause is StopCause.TIME_LIMIT

    watch(body, scheduler)


def test_a_time_limit_that_was_shortened_is_noticed(watch, monkeypatch):
    monkeypatch.setattr("launcher.supervisor.stops.CLOCK_SECONDS", 0.01)
    scheduler = FakeScheduler(("n1",), ends_at=time.time() + 3600)

    async def body(stops: StopWatch) -> None:
        await asyncio.sleep(0.1)
        assert stops.stop is None
        scheduler.ends_at = time.time() + 30
        await _until(lambda: stops.stop)

    watch(body, scheduler)


def test_only_a_second_interrupt_of_the_supervisor_itself_kills_the_ranks(watch):
    async def body(stops: StopWatch) -> None:
        for _ in range(4):  # As `scancel --signal=INT` reaches the agents of four nodes.
            stops.on_signal("SIGINT")
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(0.1)
        assert stops.stop.cause is StopCause.USER and not stops.kill.is_set()
        signal.raise_signal(signal.SIGINT)
        await _until(stops.kill.is_set)

    watch(body, FakeScheduler(("n1",)))
