"""SIGQUIT writes the stacks of all threads, also of a process that is blocked outside Python."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bigtrain.health.stacks import write_stacks_on_sigquit
from tests.ranks import RankError, run_ranks

BLOCKED = """
import ctypes, sys, threading
from pathlib import Path
from bigtrain.health.stacks import write_stacks_on_sigquit

def waits_in_another_thread():
    threading.Event().wait()

write_stacks_on_sigquit(Path(sys.argv[1]), rank=5)
threading.Thread(target=waits_in_another_thread, daemon=True).start()
libc = ctypes.PyDLL(None)  # PyDLL keeps the interpreter locked: no Python code can run meanwhile.

def blocked_in_c():
    print("ready", flush=True)
    while True:
        libc.sleep(60)  # A signal ends it early.

blocked_in_c()
"""


def _wait(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def test_a_process_blocked_in_c_writes_its_stacks_and_continues(tmp_path: Path) -> None:
    file = tmp_path / "stacks.txt"
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED, str(file)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGQUIT)
        _wait(lambda: "blocked_in_c" in file.read_text())
        text = file.read_text()
        assert text.startswith(f"rank 5, process {process.pid}, ")
        assert "waits_in_another_thread" in text
        process.send_signal(signal.SIGQUIT)
        _wait(lambda: file.read_text().count("blocked_in_c") == 2)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def _hang_in_a_collective(folder: Path) -> None:
    import torch
    import torch.distributed as dist

    rank = int(os.environ["RANK"])
    write_stacks_on_sigquit(folder / f"stacks-{rank}.txt", rank=rank)
    dist.init_process_group("gloo")
    if rank == 1:
        while True:  # It never comes to the collective.
            for file in folder.glob("waiting-*"):
                os.kill(int(file.name.removeprefix("waiting-")), signal.SIGQUIT)
            if "in _wait_for_a_sum" in (folder / "stacks-0.txt").read_text():
                return
            time.sleep(0.02)
    (folder / f"waiting-{os.getpid()}").touch()
    _wait_for_a_sum(torch.ones(1))


def _wait_for_a_sum(value: object) -> None:
    import torch.distributed as dist

    dist.all_reduce(value)


def test_a_rank_that_waits_in_a_collective_shows_which(tmp_path: Path) -> None:
    # Rank 1 ends once rank 0 has written its stack, and then rank 0 fails.
    with pytest.raises(RankError, match="rank 0"):
        run_ranks(_hang_in_a_collective, 2, tmp_path, timeout=40)
    assert "in all_reduce" in (tmp_path / "stacks-0.txt").read_text()


def test_a_file_that_cannot_be_opened_is_only_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_stacks_on_sigquit(tmp_path / "no" / "folder", rank=2)
    assert "will not show the stacks of rank 2" in caplog.text


def test_without_a_file_sigquit_is_left_alone() -> None:
    before = signal.getsignal(signal.SIGQUIT)
    write_stacks_on_sigquit(None, rank=0)
    assert signal.getsignal(signal.SIGQUIT) is before
