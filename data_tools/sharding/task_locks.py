"""Locks of a sharding job: one process runs all tasks, or several processes run some tasks each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_tools.errors import InputError
from data_tools.files import write_file
from data_tools.jobs.output_folder import LOCK_NAME
from data_tools.locks import try_lock, try_lock_byte, wait_for_lock
from data_tools.sharding.shard_job import TASKS_FOLDER, Job

_TASKS_LOCK = ".tasks.lock"
_CLAIM_LOCK = ".claim.lock"
_PARTS_NOTE = ".parts"


@contextmanager
def lock_tasks(out: Path, numbers: Sequence[int]) -> Iterator[None]:
    """Locks some tasks of a job; other processes, on any machine, may lock other tasks.

    Raises:
        InputError: A process runs one of the tasks, or runs all tasks, or seals the job.
    """
    folder = out / TASKS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (out / LOCK_NAME).open("a+") as job_lock, (folder / _TASKS_LOCK).open("a+") as task_lock:
        if not try_lock(job_lock, shared=True):
            raise InputError(
                f"another process is writing to {out}: wait for it, or choose another --out"
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
def lock_job_file(out: Path) -> Iterator[None]:
    """Lets one process at a time write the job file; other processes wait."""
    with (out / TASKS_FOLDER / _CLAIM_LOCK).open("a+") as lock:
        wait_for_lock(lock)
        yield


def write_part_count(job: Job, count: int) -> None:
    """Records the last number of array parts; call it inside `lock_job_file`."""
    if read_part_count(job) != count:
        write_file(job.out / TASKS_FOLDER / _PARTS_NOTE, f"{count}\n".encode())


def read_part_count(job: Job) -> int:
    """Reads the last number of array parts; if it is not recorded, the number of tasks."""
    path = job.out / TASKS_FOLDER / _PARTS_NOTE
    text = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    return int(text) if text.isdecimal() and int(text) else job.choices.tasks


def remove_locks(out: Path) -> None:
    """Removes the lock files of tasks and the record of parts; call it inside `only_writer`."""
    for name in (_TASKS_LOCK, _CLAIM_LOCK, _PARTS_NOTE):
        (out / TASKS_FOLDER / name).unlink(missing_ok=True)
