"""Finds runs: the one that a user names, and all runs of a folder. No torch."""

import re
from dataclasses import dataclass
from pathlib import Path

from bigtrain.checkpoint.dangling_links import check_links
from bigtrain.config.run_files import STATUS_FILE
from bigtrain.config.saved import ATTEMPTS_FILE, CONFIG_FILE
from bigtrain.runs.job_file import JOB_CONFIG, JOB_FILE
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.run_status import RunStatus, read_brief_status

_RUN_FILES = (JOB_FILE, ATTEMPTS_FILE, STATUS_FILE)
"""A run folder has one of them; `launch` writes the first before the run has begun."""


class NoRunError(ValueError):
    """There is no run with this name; the message is one line."""


@dataclass(frozen=True, slots=True)
class ListedRun:
    """One line of a list of runs."""

    status: RunStatus
    steps: int | None
    """Steps that the run takes in all; None if that is not known."""
    changed: float
    """When the run was last heard of, or its folder changed, in seconds since 1970."""


def find_run(name: str | Path, runs_dir: Path) -> Path:
    """Finds the folder of a run.

    Args:
        name: A run folder, or the name of a run in ``runs_dir``.
        runs_dir: The folder of runs.

    Raises:
        NoRunError: There is no such run.
        FolderError: The folder is a dangling link.
    """
    place = Path(name)
    is_name = len(place.parts) == 1 and not place.is_absolute() and place.name not in ("", "..")
    for folder in (place, runs_dir / place) if is_name else (place,):
        check_links(folder)
        if is_run(folder):
            return folder
    if is_name and not place.exists() and not (runs_dir / place).exists():
        raise NoRunError(
            f"{name}: no run folder, and no run of this name in {runs_dir}; `bigtrain status` "
            "lists the runs there, and --runs-dir names another folder"
        )
    problem = RunFolder(place if place.exists() or not is_name else runs_dir / place)
    raise NoRunError(problem.explain_no_run() or f"{name}: not a run folder, no attempt has begun")


def is_run(folder: Path) -> bool:
    """Whether a run was begun, or submitted, in a folder."""
    return any((folder / name).is_file() for name in _RUN_FILES)


def list_runs(runs_dir: Path, *, now: float) -> list[ListedRun]:
    """Lists the runs of a folder, newest first.

    Args:
        runs_dir: The folder of runs.
        now: The time, in seconds since 1970.

    Raises:
        NoRunError: There is no such folder.
    """
    check_links(runs_dir)
    if not runs_dir.is_dir():
        raise NoRunError(
            f"{runs_dir}: no such folder of runs; give it with --runs-dir, or start a run with "
            "`bigtrain launch`"
        )
    runs = [_list_run(folder, now) for folder in runs_dir.iterdir() if is_run(folder)]
    return sorted(runs, key=lambda run: run.changed, reverse=True)


def _list_run(folder: Path, now: float) -> ListedRun:
    status = read_brief_status(folder, now=now)
    times = [status.last_news or 0.0]
    for name in _RUN_FILES if status.last_news is None else ():
        if (folder / name).is_file():
            times.append((folder / name).stat().st_mtime)
    return ListedRun(status, _find_steps(folder), max(times))


def _find_steps(folder: Path) -> int | None:
    """``train.steps`` of a config that bigtrain wrote; to validate all configs takes seconds."""
    for name in (CONFIG_FILE, JOB_CONFIG):
        try:
            text = (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        section = re.search(r"^train:\n((?:[ \t].*\n?)*)", text, re.MULTILINE)
        steps = re.search(r"^  steps: (\d+)$", section[1], re.MULTILINE) if section else None
        if steps is not None:
            return int(steps[1])
    return None
