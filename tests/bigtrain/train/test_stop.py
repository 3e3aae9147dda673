"""A run is asked to stop by a signal or by a file, and looks at the step boundary."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigtrain.train.stop import StopFlag


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Leaves the signal handlers as they were."""
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_raises_the_flag_and_is_named(number: signal.Signals, tmp_path: Path) -> None:
    flag = StopFlag(tmp_path, watches_file=False)
    assert not flag.is_raised()
    signal.raise_signal(number)
    assert flag.is_raised()
    assert flag.reason == number.name


def test_only_the_rank_that_watches_sees_the_file(tmp_path: Path) -> None:
    watching = StopFlag(tmp_path, watches_file=True)
    other = StopFlag(tmp_path, watches_file=False)
    (tmp_path / "STOP").touch()
    assert watching.is_raised()
    assert not other.is_raised()
    watching.clear_file()
    assert not (tmp_path / "STOP").exists()
    assert watching.is_raised()
