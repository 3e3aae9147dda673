"""`bigtrain checkpoint list`: all folders of a run's checkpoints. No torch.

It also finds the checkpoints that the arguments of the other commands name.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bigtrain.checkpoint.commit import open_state
from bigtrain.checkpoint.dangling_links import check_links
from bigtrain.checkpoint.find_checkpoint import find_checkpoint
from bigtrain.checkpoint.run_checkpoints import checkpoints_of_run
from bigtrain.checkpoint.schema import (
    COMMIT_FILE,
    STATE_FILE,
    TENSORS_FILE,
    CheckpointError,
    read_state,
)
from bigtrain.checkpoint.step_folders import CHECKPOINTS, named_folders
from bigtrain.checkpoint.storage_folder import DiskFolder, Folder, open_folder
from bigtrain.commands.checkpoint.formatting import (
    align_columns,
    describe_layout,
    render_bytes,
    render_layout,
    render_time,
)

WHOLE, UNREADABLE, SET_ASIDE = "whole", "cannot be read", "set aside"
UNFINISHED = "not finished"

_NAME = re.compile(r"^step-(\d{8,})(?:\.(try)-(\d+))?(?:\.(tmp|bad|rewound)-([\w.-]+))?$")
_ASIDE_MARKER = re.compile(r"^COMMIT\.((?:bad|rewound)-[\w.-]+)\.json$")
_PARTS = {COMMIT_FILE, STATE_FILE, TENSORS_FILE}


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder of a run's checkpoints, complete or not."""

    folder: Folder
    step: int
    state: str
    """``whole``, ``cannot be read``, ``set aside`` or ``not finished``."""
    why: str
    """The reason for the state, in one line; may be empty."""
    bytes: int
    """Total size of the files in the folder."""
    tokens: int | None
    """Tokens trained on; None if the state cannot be read."""
    committed: float | None
    """Seconds since 1970."""
    layout: dict[str, int] | None
    """The layout in which it was saved: ranks, tensor, pipeline, data, zero."""


def find_one_checkpoint(place: str | Path) -> tuple[Folder, list[str]]:
    """Finds the checkpoint at a place, readable or not, or the newest complete one of a run.

    Returns:
        Its folder, and one line for each newer checkpoint that cannot be read.

    Raises:
        CheckpointError: There is no checkpoint.
    """
    folder = _open_place(place)
    return (folder, []) if _is_checkpoint(folder) else find_checkpoint(place)


def find_checkpoints(place: str | Path, *, every: bool = False) -> list[Folder]:
    """Finds the checkpoint at a place, or the newest one of a run, readable or not.

    Args:
        place: A checkpoint, a run folder, or a folder of checkpoints; a path or an fsspec URL.
        every: Return all checkpoints of a run instead, newest first.

    Raises:
        CheckpointError: There is no checkpoint.
    """
    folder = _open_place(place)
    if _is_checkpoint(folder):
        return [folder]
    if not folder.names():
        return [find_checkpoint(place)[0]]
    found = named_folders(find_checkpoint_folder(place))
    if not found:
        raise CheckpointError(f"{place}: the run has no checkpoint yet")
    return found if every else found[:1]


def find_checkpoint_folder(place: str | Path) -> Folder:
    """Finds the folder of checkpoints from its own path or that of the run folder.

    Raises:
        CheckpointError: The place is neither a run folder nor a folder of checkpoints.
    """
    folder = _open_place(place)
    names = folder.names()
    if "config.yaml" in names and isinstance(folder, DiskFolder):
        return checkpoints_of_run(folder.path)
    if any(_NAME.match(name) for name in names):
        return folder
    if CHECKPOINTS in names:
        return folder.child(CHECKPOINTS)
    raise CheckpointError(
        f"{place}: not a run folder or a folder of checkpoints; give one such as runs/gpt-tiny"
    )


def list_checkpoints(place: str | Path) -> list[Entry]:
    """Lists all folders of a run's checkpoints, newest first, without reading tensors.

    Raises:
        CheckpointError: The place is not a run folder, folder of checkpoints or checkpoint.
    """
    folder = _open_place(place)
    if _is_checkpoint(folder):
        return [_read_entry(folder, None)]
    checkpoints = find_checkpoint_folder(place)
    named = [(match, name) for name in checkpoints.names() if (match := _NAME.match(name))]
    named.sort(key=lambda each: (int(each[0][1]), int(each[0][3] or 0), each[1]), reverse=True)
    return [_read_entry(checkpoints.child(name), match) for match, name in named]


def step_in_name(folder: Folder) -> int | None:
    """Returns the step in a folder's name; None if there is none."""
    match = _NAME.match(folder.name)
    return int(match[1]) if match else None


def set_aside_folders(checkpoints: Folder) -> list[Folder]:
    """Returns the folders set aside as bad or by a rewind, oldest first."""
    entries = [
        checkpoints.child(name)
        for name in checkpoints.names()
        if (match := _NAME.match(name)) and match[4] != "tmp"
    ]
    return [folder for folder in entries if _set_aside_label(folder, _NAME.match(folder.name))]


def folder_bytes(folder: Folder) -> int:
    """Returns the total size of the files in a folder."""
    return sum(folder.size(name) or 0 for name in folder.names())


def entry_as_json(entry: Entry) -> dict[str, object]:
    """Returns an entry as values for `list --json`."""
    return {
        "path": str(entry.folder),
        "step": entry.step,
        "state": entry.state,
        "why": entry.why,
        "bytes": entry.bytes,
        "tokens": entry.tokens,
        "committed": render_time(entry.committed) or None,
        "layout": entry.layout,
    }


HEADER = ("step", "tokens", "size", "committed", "saved in layout", "state")
_RIGHT = (0, 1, 2)


def render_rows(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    """Renders the cells of the columns in ``HEADER``."""
    return [
        (
            str(entry.step),
            "" if entry.tokens is None else f"{entry.tokens:,}",
            render_bytes(entry.bytes),
            render_time(entry.committed),
            "" if entry.layout is None else _render_ranks(entry.layout),
            f"{entry.state}: {entry.why}" if entry.why else entry.state,
        )
        for entry in entries
    ]


def render_list(entries: Sequence[Entry]) -> Iterator[str]:
    """Renders the entries as aligned lines, below a header."""
    return align_columns([HEADER, *render_rows(entries)], right=_RIGHT)


def render_table(entries: Sequence[Entry]) -> Table:
    """Renders the entries as a table for a terminal."""
    table = Table()
    for number, title in enumerate(HEADER):
        table.add_column(title, justify="right" if number in _RIGHT else "left", overflow="fold")
    for entry, row in zip(entries, render_rows(entries), strict=True):
        style = {WHOLE: "", UNREADABLE: "red"}.get(entry.state, "dim")
        table.add_row(*map(Text, row), style=style)
    return table


def _open_place(place: str | Path) -> Folder:
    folder = open_folder(place)
    if isinstance(folder, DiskFolder) and not folder.path.is_dir():
        check_links(folder.path)
        if folder.path.exists():
            raise CheckpointError(
                f"{place}: is a file; give a folder such as runs/NAME/checkpoints/step-00000100"
            )
    return folder


def _is_checkpoint(folder: Folder) -> bool:
    names = folder.names()
    there = names or (isinstance(folder, DiskFolder) and folder.path.is_dir())
    return bool(_PARTS & {*names} or (there and _NAME.match(folder.name)))


def _read_entry(folder: Folder, match: re.Match[str] | None) -> Entry:
    names = folder.names()
    try:
        saved, problem = open_state(folder), ""
    except CheckpointError as error:
        problem = _short(folder, error)
        try:
            saved = read_state(folder)
        except CheckpointError:
            saved = None
    state, why = _state_of(folder, match, names, problem)
    step = int(match[1]) if match else saved.step if saved else 0
    return Entry(
        folder=folder,
        step=step,
        state=state,
        why=why,
        bytes=folder_bytes(folder),
        tokens=saved.tokens if saved else None,
        committed=next((folder.modified(n) for n in names if n.startswith("COMMIT")), None),
        layout=describe_layout(saved.config, names) if saved else None,
    )


def _state_of(
    folder: Folder, match: re.Match[str] | None, names: Sequence[str], problem: str
) -> tuple[str, str]:
    if label := _set_aside_label(folder, match):
        return SET_ASIDE, label
    if match and match[4] == "tmp":
        doing = "deleted" if match[5] == "removed" else f"written by attempt {match[5]}"
        return UNFINISHED, f"being {doing}, or left by a kill"
    if match and COMMIT_FILE not in names and (match[2] or not folder.renames):
        return UNFINISHED, "being written, or left by a kill"
    if problem:
        return UNREADABLE, problem
    return WHOLE, ""


def _set_aside_label(folder: Folder, match: re.Match[str] | None) -> str | None:
    """Returns why and when a folder was set aside, such as ``bad-3``; None if it was not."""
    if match and match[4] in ("bad", "rewound"):
        return f"{match[4]}-{match[5]}"
    names = folder.names()
    if folder.renames or COMMIT_FILE in names:
        return None
    return next((found[1] for name in names if (found := _ASIDE_MARKER.match(name))), None)


def _short(folder: Folder, error: CheckpointError) -> str:
    """The error without the path and the remedy, which need not be in each line of a list."""
    return str(error).replace(f"{folder}/", "").rsplit("; ", 1)[0]


def _render_ranks(layout: dict[str, int]) -> str:
    ranks = "1 rank" if layout["ranks"] == 1 else f"{layout['ranks']} ranks"
    return f"{ranks}: {render_layout(layout)}"
