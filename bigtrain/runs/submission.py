"""Writes the files of a run before its job is submitted, and undoes that on failure. No torch."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bigtrain.runs.job_file import PRIVATE_FILES
from bigtrain.runs.run_lock import RunBusyError
from bigtrain.runs.wandb_id import read_or_create_wandb_id
from data_tools.files import PRIVATE, write_file
from data_tools.locks import try_lock

_LOCK_FILE = ".submit.lock"


@dataclass(slots=True)
class SubmissionFiles:
    """The files of a submission that is being made."""

    kept: bool = False
    """Set to True to leave the files there, even if the block fails."""


@contextmanager
def submission_lock(run_dir: Path) -> Iterator[None]:
    """Makes the run folder, and lets one process at a time submit the run.

    If the block fails, folders that were made for it and are still empty are removed.

    Raises:
        RunBusyError: Another process submits this run now.
        OSError: The folder cannot be made.
    """
    made = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    run_dir.mkdir(parents=True, exist_ok=True)
    file = run_dir / _LOCK_FILE
    is_first = not file.exists()
    with file.open("a") as lock:
        if not (try_lock(lock) and _is_the_file(lock, file)):
            raise RunBusyError(
                f"{run_dir}: another process submits this run now; wait for it, or give this run "
                "another name"
            )
        try:
            yield
        except BaseException:
            if is_first:
                file.unlink(missing_ok=True)
            _remove_empty(made)
            raise


@contextmanager
def submission_files(
    run_dir: Path, files: Mapping[str, str], *, folders: tuple[str, ...]
) -> Iterator[SubmissionFiles]:
    """Writes files of a run, and restores the earlier ones if the block fails.

    wandb's id of the run is made too, so that every job of the run continues one wandb run.

    Args:
        run_dir: The run folder, which exists.
        files: Contents by name.
        folders: Names of folders to make.

    Raises:
        OSError: A file cannot be written; the earlier ones are restored.
    """
    before = {name: _content(run_dir / name) for name in (*files, "wandb_id")}
    made = [run_dir / name for name in folders if not (run_dir / name).exists()]
    written = SubmissionFiles()
    try:
        for folder in made:
            folder.mkdir()
        for name, text in files.items():
            _write(run_dir / name, text.encode())
        read_or_create_wandb_id(run_dir)
        yield written
    except BaseException:
        if written.kept:
            raise
        for name, content in before.items():
            _put_back(run_dir / name, content)
        _remove_empty(made)
        raise


def _is_the_file(lock: IO[str], file: Path) -> bool:
    """Whether an open file was not removed since, by a submission that failed."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), file.stat())
    except FileNotFoundError:
        return False


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _put_back(file: Path, content: bytes | None) -> None:
    with suppress(OSError):  # The error that led here is the one to report.
        if content is None:
            file.unlink(missing_ok=True)
        else:
            _write(file, content)


def _write(file: Path, content: bytes) -> None:
    mode = PRIVATE if file.name in PRIVATE_FILES else None
    write_file(file, content, makes_folder=False, mode=mode)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
