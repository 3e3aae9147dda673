"""Locks of a job: one process runs all tasks, or several processes run some tasks each.

The locks, and the last number of parts, are files in the job's folder: the subfolder of the output
folder that has the job file and the completion markers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_tools.errors import InputError
from data_tools.files import write_file
from data_tools.jobs.output_folder import LOCK_NAME
from data_tools.locks import try_lock, try_lock_byte, wait_for_lock

_TASKS_LOCK = ".tasks.lock"
_CLAIM_LOCK = ".claim.lock"
_PARTS_NOTE = ".parts"


@contextmanager
def lock_tasks(folder: Path, numbers: Sequence[int]) -> Iterator[None]:
    """Locks some tasks of a job; other processes, on any machine, may lock other tasks.

    Args:
        folder: The job's folder; made if there is none.
        numbers: The numbers of the tasks.

    Raises:
        InputError: A process runs one of the tasks, or runs all tasks, or seals the job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out = folder.parent
    with (out / LOCK_NAME).open("a+") as job_lock, (folder / _TASKS_LOCK).open("a+") as task_lock:
        if not try_lock(job_lock, shared=True):
            raise InputError(
                f"another process is writing to {out}: wait for it, or write to another folder"
            )
        for number in numbers:
            # One byte of the file for each task, so it does not matter how the tasks are divided.
            if not try_lock_byte(task_lock, number):
                raise InputError(
                    f"another process is running task {number} of {out}: "
                    "wait for it, or choose another --task"
                )
        yield


@contextmanager
def lock_job_file(folder: Path) -> Iterator[None]:
    """Lets one process at a time write the job file; other processes wait."""
    with (folder / _CLAIM_LOCK).open("a+") as lock:
        wait_for_lock(lock)
        yield


def write_part_count(folder: Path, count: int) -> None:
    """Records the last number of array parts; call it inside `lock_job_file`."""
    if read_part_count(folder) != count:
        write_file(folder / _PARTS_NOTE, f"{count}\n".encode())


def read_part_count(folder: Path) -> int | None:
    """Reads the last number of array parts; None if it is not recorded."""
    path = folder / _PARTS_NOTE
    text = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    return int(text) if text.isdecimal() and int(text) else None


def remove_locks(folder: Path) -> None:
    """Removes the lock files of tasks and the record of parts; call it inside `only_writer`."""
    for name in (_TASKS_LOCK, _CLAIM_LOCK, _PARTS_NOTE):
        (folder / name).unlink(missing_ok=True)
