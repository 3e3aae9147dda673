"""Who may write in a job's folder: one whole job, or several parts of it, each with its tasks."""

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
def some_tasks(out: Path, numbers: Sequence[int]) -> Iterator[None]:
    """Holds some tasks of a job, beside other processes on any machine that hold others.

    Raises:
        InputError: A whole job is being run or sealed there, or one of the tasks is.
    """
    folder = out / TASKS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (out / LOCK_NAME).open("a+") as job_lock, (folder / _TASKS_LOCK).open("a+") as task_lock:
        if not try_lock(job_lock, shared=True):
            raise InputError(
                f"another process is writing to {out}: wait for it, or choose another --out"
            )
        for number in numbers:
            # One byte of the file for each task, so that any two ways to divide them agree.
            if not try_lock_byte(task_lock, number):
                raise InputError(
                    f"another process is at work on task {number} of {out}: "
                    "wait for it, or choose another --task"
                )
        yield


@contextmanager
def one_claimant(out: Path) -> Iterator[None]:
    """Lets one process at a time say what the job of a folder is; the others wait for it."""
    with (out / TASKS_FOLDER / _CLAIM_LOCK).open("a+") as lock:
        wait_for_lock(lock)
        yield


def note_parts(job: Job, count: int) -> None:
    """Keeps into how many parts a job was divided last, until it is whole; for its claimant."""
    if known_parts(job) != count:
        write_file(job.out / TASKS_FOLDER / _PARTS_NOTE, f"{count}\n".encode())


def known_parts(job: Job) -> int:
    """Reads into how many parts a job was divided last; if nobody knows, one for each task."""
    path = job.out / TASKS_FOLDER / _PARTS_NOTE
    text = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    return int(text) if text.isdecimal() and int(text) else job.choices.tasks


def remove_locks(out: Path) -> None:
    """Removes the locks of single tasks, and the note; for who holds the whole folder."""
    for name in (_TASKS_LOCK, _CLAIM_LOCK, _PARTS_NOTE):
        (out / TASKS_FOLDER / name).unlink(missing_ok=True)
