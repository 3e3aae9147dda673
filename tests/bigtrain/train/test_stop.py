"""A signal or a file raises the stop flag."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigtrain.train.stop import StopFlag


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restores the signal handlers after the test."""
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_raises_the_flag_and_is_named(number: signal.Signals, tmp_path: Path) -> None:
    flag = StopFlag()
    flag.begin_run(tmp_path, watches_file=False)
    assert not flag.is_raised()
    signal.raise_signal(number)
    assert flag.is_raised()
    assert flag.reason == number.name


def test_only_a_flag_that_watches_the_file_is_raised_by_it(tmp_path: Path) -> None:
    watching, other = StopFlag(), StopFlag()
    watching.begin_run(tmp_path, watches_file=True)
    other.begin_run(tmp_path, watches_file=False)
    (tmp_path / "STOP").touch()
    assert watching.is_raised()
    assert not other.is_raised()
    watching.clear_file()
    assert not (tmp_path / "STOP").exists()
    assert watching.is_raised()


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")]
)
def test_ctrl_c_and_other_signals_are_described_by_name(
    number: signal.Signals, name: str, tmp_path: Path
) -> None:
    flag = StopFlag()
    flag.begin_run(tmp_path, watches_file=False)
    signal.raise_signal(number)
    assert flag.description == name


@pytest.mark.parametrize(("passed_on", "name"), [("SIGINT", "Ctrl-C"), ("SIGTERM", "SIGTERM")])
def test_a_forwarded_signal_is_described_as_the_one_that_the_launcher_received(
    passed_on: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIGTRAIN_STOP_SIGNAL_FILE", str(tmp_path / "stop-signal"))
    flag = StopFlag()
    assert flag.description is None
    signal.raise_signal(signal.SIGTERM)
    assert flag.description == "SIGTERM"  # The launcher forwarded nothing.
    (tmp_path / "stop-signal").write_text(passed_on)
    assert flag.description == name
