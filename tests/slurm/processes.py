"""Processes on this machine, for the tests: finding programs and processes, and waiting."""

import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

SYSTEM_FOLDERS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")


def wait_until(
    condition: Callable[[], object], timeout: float, describe: Callable[[], str] | None = None
) -> None:
    """Polls ``condition`` until it holds.

    Raises:
        AssertionError: It did not hold within ``timeout`` seconds; with the text of ``describe``.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:.0f} s: {describe() if describe else ''}")
        time.sleep(0.1)


def name_of(process: psutil.Process | None) -> str:
    """The name of a process's program; "" if it ended."""
    with suppress(psutil.Error):
        return process.name() if process is not None else ""
    return ""


def parent_of(process: psutil.Process) -> psutil.Process | None:
    """The parent of a process; None if either has ended."""
    with suppress(psutil.Error):
        return process.parent()
    return None


def find_program(name: str) -> str | None:
    """The path of a program, also where the system folders are not on the PATH; None if missing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_FOLDERS])
    return shutil.which(name, path=path)


def processes_of(pids: Iterable[int]) -> list[psutil.Process]:
    """The processes with these ids that are still there."""
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


def with_children(process: psutil.Process) -> list[psutil.Process]:
    """A process and all its descendants."""
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def environment_of(process: psutil.Process) -> dict[str, str]:
    """The environment that a process was started with; {} if it ended."""
    with suppress(psutil.Error, OSError):
        return process.environ()
    return {}


def open_files_of(process: psutil.Process) -> list[str]:
    """The paths of the files that a process has open; [] if it ended."""
    with suppress(psutil.Error, OSError):
        return [file.path for file in process.open_files()]
    return []


def command_of(process: psutil.Process) -> list[str]:
    """The command line of a process; [] if it ended."""
    with suppress(psutil.Error):
        return process.cmdline()
    return []
