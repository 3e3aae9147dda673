"""A preemption signals all processes of a job; what a sink has started must outlive it."""

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigtrain.track.tracker import Trackers
from bigtrain.track.wandb_sink import open_wandb
from launcher.processes import find_parent
from tests.runs import tiny_config

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)


def _descendants(pid: int) -> Iterator[int]:
    folders = (folder.name for folder in Path("/proc").iterdir())
    for child in [int(name) for name in folders if name.isdecimal()]:
        if find_parent(child) == pid:
            yield child
            yield from _descendants(child)


@pytest.fixture
def _no_wandb_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.usefixtures("_no_wandb_settings")
def test_wandb_keeps_the_steps_after_a_signal_to_all_processes_of_the_job(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tmp_path, track={"wandb": "offline"})
    (config.run_dir / "logs").mkdir(parents=True)
    sink = open_wandb(config, config.run_dir, "abcd1234")
    assert sink is not None
    trackers = Trackers([sink])
    trackers.record("train", 1, {"loss": 101.5})
    pattern = "wandb/offline-run-*-abcd1234/run-abcd1234.wandb"
    deadline = time.monotonic() + 60
    while not any(b"101.5" in file.read_bytes() for file in config.run_dir.glob(pattern)):
        assert time.monotonic() < deadline, "wandb did not open the run"
        time.sleep(0.05)
    started = [*_descendants(os.getpid())]
    assert len(started) > 1  # The process of the sink, and wandb's service.
    for number in _SIGNALS:
        for pid in started:
            os.kill(pid, number)
    time.sleep(0.5)  # Without the filter the service ends in less.
    for step in (2, 3):
        trackers.record("train", step, {"loss": 100.5 + step})
    trackers.finish("stopped")
    (file,) = config.run_dir.glob(pattern)
    assert [step for step in (1, 2, 3) if str(100.5 + step).encode() in file.read_bytes()] == (
        [1, 2, 3]
    )


_PROGRAM = """
import os, signal, subprocess, sys
from bigtrain.track.ignored_signals import ignore_signals
ignore_signals((signal.SIGTERM, signal.SIGUSR2))
child = '''
import os, signal
os.kill(os.getpid(), signal.SIGTERM)
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
signal.signal(signal.SIGHUP, lambda *_: print("other signals are handled"))
os.kill(os.getpid(), signal.SIGHUP)
'''
subprocess.run([sys.executable, "-c", child], check=True)
"""


def test_a_program_cannot_handle_an_ignored_signal() -> None:
    words = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "other signals are handled\n"


def test_a_machine_without_a_filter_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from bigtrain.track.ignored_signals import ignore_signals

    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="signals of riscv64 cannot be filtered"):
        ignore_signals(())
