"""Finds the checkpoint that a path or a URL refers to. No torch."""

from collections.abc import Iterator
from pathlib import Path

from bigtrain.checkpoint.commit import newest_complete
from bigtrain.checkpoint.hugging_face_folder import is_hugging_face_folder
from bigtrain.checkpoint.run_checkpoints import checkpoints_of_run
from bigtrain.checkpoint.schema import (
    COMMIT_FILE,
    STATE_FILE,
    CheckpointError,
    StorageError,
)
from bigtrain.checkpoint.step_folders import CHECKPOINTS, named_folders
from bigtrain.checkpoint.storage_folder import DiskFolder, Folder, open_folder
from bigtrain.config.file_errors import is_bad_input
from bigtrain.config.paths import find_dangling_link, render_dangling_link


def find_checkpoint(place: str | Path) -> tuple[Folder, list[str]]:
    """Finds the checkpoint that a path or a URL refers to.

    Args:
        place: A checkpoint, a run folder, or a folder of checkpoints (the newest
            complete one of these); a path or an fsspec URL.

    Returns:
        Its folder, and one line for each newer one that was skipped.

    Raises:
        CheckpointError: There is none, or, as a StorageError, the storage fails for a time.
        FolderError: The path or URL cannot be used.
    """
    folder = open_folder(place)
    try:
        return _find_in(folder)
    except OSError as error:
        message = f"{place}: {error.strerror or error}"
        raise StorageError(message, is_temporary=not is_bad_input(error)) from None


def _find_in(folder: Folder) -> tuple[Folder, list[str]]:
    names = folder.names()
    if COMMIT_FILE in names or STATE_FILE in names:
        return folder, []
    if not names and (newest := _newest_of_step(folder)) is not None:
        return newest, []
    skipped: list[str] = []
    for checkpoints in _candidates(folder, names):
        newest, lines = newest_complete(checkpoints)
        skipped += lines
        if newest is not None:
            return newest, skipped
    if skipped:
        raise CheckpointError(f"{folder}: no checkpoint can be read; {'; '.join(skipped)}")
    if isinstance(folder, DiskFolder) and is_hugging_face_folder(folder.path):
        raise CheckpointError(
            f"{folder}: a Hugging Face folder; make a checkpoint of it with `bigtrain import-hf "
            f"{folder} --out CHECKPOINT` (as checkpoint.load, `bigtrain launch` does so)"
        )
    if isinstance(folder, DiskFolder) and (link := find_dangling_link(folder.path)) is not None:
        raise CheckpointError(render_dangling_link(link))
    raise CheckpointError(
        f"{folder}: neither a checkpoint nor a run folder with one; "
        "give a folder such as runs/NAME/checkpoints/step-00000100"
    )


def _newest_of_step(folder: Folder) -> Folder | None:
    """The newest checkpoint of a step in an object store, if the path has no ``.try-``."""
    checkpoints = open_folder(str(folder).rpartition("/")[0])
    tries = (t for t in named_folders(checkpoints) if t.name.startswith(f"{folder.name}.try-"))
    return next(tries, None)


def _candidates(folder: Folder, names: list[str]) -> Iterator[Folder]:
    """The folders of checkpoints that this folder may refer to."""
    if isinstance(folder, DiskFolder) and "config.yaml" in names:
        yield checkpoints_of_run(folder.path)
    else:
        yield folder.child(CHECKPOINTS)
    yield folder
