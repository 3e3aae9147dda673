"""Fake ranks: real processes that run a few lines and synchronize through files."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import launcher

PRELUDE = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

rank = int(os.environ["RANK"])
error_file = Path(os.environ["BIGTRAIN_ERROR_FILE"])
folder = error_file.parent
stops = []

def put(name, text=""):
    (folder / f".{name}").write_text(str(text))
    (folder / f".{name}").rename(folder / name)

def wait_until(true, seconds=20):
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            os._exit(99)
        time.sleep(0.005)

def has_ended(pid):
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().split()
    except OSError:
        return True

def fail(message, code=1):
    fields = dict(rank=rank, exit_code=code, message=message, traceback="", time=time.time())
    put(error_file.name, json.dumps(fields))
    sys.exit(code)

def record_signals(*numbers):
    for number in numbers:
        signal.signal(number, lambda number, _: stops.append(number))
    put(f"ready-{rank}", os.getpid())

def hang():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    put(f"ready-{rank}", os.getpid())
    time.sleep(600)
"""

DRIVER = """
import sys
from pathlib import Path
from launcher.local import LocalLaunch, run_local

job = LocalLaunch((sys.executable, sys.argv[1]), 2, Path(sys.argv[2]), grace_seconds=0.3)
result = run_local(job)
print(result.exit_code, result.interrupted, result.failure and result.failure.message)
sys.exit(result.exit_code)
"""


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def poll(true: Callable[[], bool], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


class Launched:
    """A launcher in a separate process, to which tests send signals."""

    def __init__(self, script: Path, log_dir: Path) -> None:
        self.log_dir = log_dir
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(script), str(log_dir)],
            env={**os.environ, "PYTHONPATH": str(Path(launcher.__file__).parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read_pid(self, name: str) -> int:
        poll((self.log_dir / name).exists)
        return int((self.log_dir / name).read_text())

    def wait_for_ranks(self) -> list[int]:
        return [self.read_pid("ready-0"), self.read_pid("ready-1")]

    def end(self) -> tuple[int, str, str]:
        """Waits for the end; returns exit code, output of the driver, and stderr."""
        output, errors = self.process.communicate(timeout=25)
        return self.process.returncode, output.strip(), errors
