"""What there is: the checkpoints of a run and what else lies among them, at a quick look.

Which checkpoints a command is asked about is decided here too. No torch.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bigtrain.checkpoint.commands.render import (
    align_columns,
    describe_layout,
    render_bytes,
    render_layout,
    render_time,
)
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

WHOLE, UNREADABLE, SET_ASIDE = "whole", "cannot be read", "set aside"
UNFINISHED = "not finished"

_NAME = re.compile(r"^step-(\d{8,})(?:\.(try)-(\d+))?(?:\.(tmp|bad|rewound)-([\w.-]+))?$")
_ASIDE_MARKER = re.compile(r"^COMMIT\.((?:bad|rewound)-[\w.-]+)\.json$")
_PARTS = {COMMIT_FILE, STATE_FILE, TENSORS_FILE}


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder among a run's checkpoints, whatever has become of it."""

    folder: Folder
    step: int
    state: str
    """``whole``, ``cannot be read``, ``set aside`` or ``not finished``."""
    why: str
    """More on the state, in one line; empty where there is no more."""
    bytes: int
    """Of the files that are there."""
    tokens: int | None
    """Trained on; None where its state cannot be read."""
    committed: float | None
    """Seconds since 1970."""
    layout: dict[str, int] | None
    """That saved it: ranks, tensor, pipeline, data, zero."""


def one_checkpoint(place: str | Path) -> tuple[Folder, list[str]]:
    """The checkpoint that a user means, readable or not, or the newest whole one of a run.

    Returns:
        Its folder, and one line for each newer one passed over.

    Raises:
        CheckpointError: There is none.
    """
    folder = _open_place(place)
    return (folder, []) if _is_checkpoint(folder) else find_checkpoint(place)


def checkpoints_meant(place: str | Path, *, every: bool = False) -> list[Folder]:
    """The checkpoint at a place, or the newest one of a run, readable or not.

    Args:
        place: A checkpoint, a run folder, or a folder of checkpoints; a path or an fsspec URL.
        every: All of a run instead, newest first.

    Raises:
        CheckpointError: There is none.
    """
    folder = _open_place(place)
    if _is_checkpoint(folder):
        return [folder]
    if not folder.names():
        return [find_checkpoint(place)[0]]
    found = named_folders(checkpoints_at(place))
    if not found:
        raise CheckpointError(f"{place}: the run has no checkpoint yet")
    return found if every else found[:1]


def checkpoints_at(place: str | Path) -> Folder:
    """The folder of checkpoints that a user means by it, or by its run folder.

    Raises:
        CheckpointError: It is neither.
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
        f"{place}: neither a run folder nor one of checkpoints; give one such as runs/gpt-tiny"
    )


def list_checkpoints(place: str | Path) -> list[Entry]:
    """Looks at all that lies among a run's checkpoints, newest first, without reading tensors.

    Raises:
        CheckpointError: The place is no run folder, folder of checkpoints or checkpoint.
    """
    folder = _open_place(place)
    if _is_checkpoint(folder):
        return [_look_at(folder, None)]
    checkpoints = checkpoints_at(place)
    named = [(match, name) for name in checkpoints.names() if (match := _NAME.match(name))]
    named.sort(key=lambda each: (int(each[0][1]), int(each[0][3] or 0), each[1]), reverse=True)
    return [_look_at(checkpoints.child(name), match) for match, name in named]


def named_step(folder: Folder) -> int | None:
    """The step in a folder's name; None where it has another name."""
    match = _NAME.match(folder.name)
    return int(match[1]) if match else None


def set_aside_folders(checkpoints: Folder) -> list[Folder]:
    """What was set aside as bad or when the run was rewound, oldest first."""
    entries = [
        checkpoints.child(name)
        for name in checkpoints.names()
        if (match := _NAME.match(name)) and match[4] != "tmp"
    ]
    return [folder for folder in entries if _aside_word(folder, _NAME.match(folder.name))]


def folder_bytes(folder: Folder) -> int:
    """The size of all files in a folder."""
    return sum(folder.size(name) or 0 for name in folder.names())


def entry_as_json(entry: Entry) -> dict[str, object]:
    """An entry as `list --json` shows it."""
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
    """The cells under ``HEADER``."""
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
    """The entries as aligned lines, under a header."""
    return align_columns([HEADER, *render_rows(entries)], right=_RIGHT)


def render_table(entries: Sequence[Entry]) -> Table:
    """The entries as a table for a terminal."""
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
                f"{place}: a file; give a folder such as runs/NAME/checkpoints/step-00000100"
            )
    return folder


def _is_checkpoint(folder: Folder) -> bool:
    names = folder.names()
    there = names or (isinstance(folder, DiskFolder) and folder.path.is_dir())
    return bool(_PARTS & {*names} or (there and _NAME.match(folder.name)))


def _look_at(folder: Folder, match: re.Match[str] | None) -> Entry:
    names = folder.names()
    try:
        saved, problem = open_state(folder), ""
    except CheckpointError as error:
        problem = _short(folder, error)
        try:
            saved = read_state(folder)
        except CheckpointError:
            saved = None
    state, why = _judge(folder, match, names, problem)
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


def _judge(
    folder: Folder, match: re.Match[str] | None, names: Sequence[str], problem: str
) -> tuple[str, str]:
    if word := _aside_word(folder, match):
        return SET_ASIDE, word
    if match and match[4] == "tmp":
        doing = "deleted" if match[5] == "removed" else f"written by attempt {match[5]}"
        return UNFINISHED, f"being {doing}, or left by a kill"
    if match and COMMIT_FILE not in names and (match[2] or not folder.renames):
        return UNFINISHED, "being written, or left by a kill"
    if problem:
        return UNREADABLE, problem
    return WHOLE, ""


def _aside_word(folder: Folder, match: re.Match[str] | None) -> str | None:
    """Why and when a folder was set aside, such as ``bad-3``; None where it was not."""
    if match and match[4] in ("bad", "rewound"):
        return f"{match[4]}-{match[5]}"
    names = folder.names()
    if folder.renames or COMMIT_FILE in names:
        return None
    return next((found[1] for name in names if (found := _ASIDE_MARKER.match(name))), None)


def _short(folder: Folder, error: CheckpointError) -> str:
    """An error without its path and its remedy, which a list need not repeat."""
    return str(error).replace(f"{folder}/", "").rsplit("; ", 1)[0]


def _render_ranks(layout: dict[str, int]) -> str:
    ranks = "1 rank" if layout["ranks"] == 1 else f"{layout['ranks']} ranks"
    return f"{ranks}: {render_layout(layout)}"
