"""The names of a run's checkpoint folders, and which of them are checkpoints. No torch.

On a disk the folder is called ``step-00000100.tmp-2`` (2 is the attempt) until it is committed. In
an object store it is ``step-00000100.try-2`` from the start, and becomes a checkpoint when
``COMMIT.json`` is written. Two attempts never write into the same folder.
"""

import re

from bigtrain.checkpoint.schema import COMMIT_FILE
from bigtrain.checkpoint.storage_folder import Folder

CHECKPOINTS = "checkpoints"
"""The folder of a run's checkpoints, in its run folder."""

_STEP_FOLDER = re.compile(r"^step-(\d{8,})(?:\.try-(\d+))?$")
_OF_AN_ATTEMPT = re.compile(r"\.(?:tmp|try|bad|rewound)-(\d+)$")


def folder_name(step: int) -> str:
    """The name of the committed checkpoint of ``step``."""
    return f"step-{step:08d}"


def step_of(folder: Folder) -> int:
    """The step of a checkpoint, from its folder's name."""
    match = _STEP_FOLDER.match(folder.name)
    assert match is not None, folder.name
    return int(match[1])


def new_folder(checkpoints: Folder, step: int, *, attempt: int) -> Folder:
    """Where an attempt writes the checkpoint of a step, until it is committed."""
    word = "tmp" if checkpoints.renames else "try"
    return checkpoints.child(f"{folder_name(step)}.{word}-{attempt}")


def newest_attempt(checkpoints: Folder) -> int:
    """The highest attempt number in the names of these folders; 0 if there is none.

    This works even if the run folder, which counts the attempts, was lost.
    """
    found = (_OF_AN_ATTEMPT.search(name) for name in checkpoints.names())
    return max((int(match[1]) for match in found if match is not None), default=0)


def final_name(written: Folder) -> str:
    """The name that a ``new_folder`` has once it is committed."""
    return written.name.split(".tmp-")[0]


def named_folders(checkpoints: Folder) -> list[Folder]:
    """All folders that are named as checkpoints, newest first; some may be unreadable.

    In an object store, and in a copy of one, a folder without a commit is not listed: it is being
    written, or was never completed.
    """
    found = []
    for name in checkpoints.names():
        match = _STEP_FOLDER.match(name)
        if match is None:
            continue
        folder = checkpoints.child(name)
        has_final_name = checkpoints.renames and match[2] is None
        if has_final_name or folder.size(COMMIT_FILE) is not None:
            found.append((int(match[1]), int(match[2] or 0), folder))
    return [folder for _, _, folder in sorted(found, key=lambda each: each[:2], reverse=True)]


def committed_folders(checkpoints: Folder) -> list[Folder]:
    """Folders with a final name and a commit, newest first."""
    return [f for f in named_folders(checkpoints) if f.size(COMMIT_FILE) is not None]
