"""Which checkpoint a user means by a path or a URL. No torch."""

from collections.abc import Iterator
from pathlib import Path

from bigtrain.checkpoint.commit import newest_complete
from bigtrain.checkpoint.run_checkpoints import checkpoints_of_run
from bigtrain.checkpoint.schema import COMMIT_FILE, STATE_FILE, CheckpointError
from bigtrain.checkpoint.step_folders import CHECKPOINTS, named_folders
from bigtrain.checkpoint.storage_folder import DiskFolder, Folder, open_folder
from bigtrain.config.paths import find_dangling_link, render_dangling_link


def find_checkpoint(place: str | Path) -> tuple[Folder, list[str]]:
    """The checkpoint that a user means.

    Args:
        place: A checkpoint, a run folder, or a folder of checkpoints (the newest whole one of
            these); a path or an fsspec URL.

    Returns:
        Its folder, and one line for each newer one passed over.

    Raises:
        CheckpointError: There is none.
        FolderError: No such place can be.
    """
    folder = open_folder(place)
    try:
        return _find_in(folder)
    except OSError as error:
        raise CheckpointError(f"{place}: {error.strerror or error}") from None


def _find_in(folder: Folder) -> tuple[Folder, list[str]]:
    names = folder.names()
    if COMMIT_FILE in names or STATE_FILE in names:
        return folder, []
    if not names and (tried := _newest_try(folder)) is not None:
        return tried, []
    passed_over: list[str] = []
    for checkpoints in _places(folder, names):
        newest, lines = newest_complete(checkpoints)
        passed_over += lines
        if newest is not None:
            return newest, passed_over
    if passed_over:
        raise CheckpointError(f"{folder}: no checkpoint can be read; {'; '.join(passed_over)}")
    if isinstance(folder, DiskFolder) and (link := find_dangling_link(folder.path)) is not None:
        raise CheckpointError(render_dangling_link(link))
    raise CheckpointError(
        f"{folder}: neither a checkpoint nor a run folder with one; "
        "give a folder such as runs/NAME/checkpoints/step-00000100"
    )


def _newest_try(folder: Folder) -> Folder | None:
    """In an object store, what the name of a step alone means."""
    checkpoints = open_folder(str(folder).rpartition("/")[0])
    tries = (t for t in named_folders(checkpoints) if t.name.startswith(f"{folder.name}.try-"))
    return next(tries, None)


def _places(folder: Folder, names: list[str]) -> Iterator[Folder]:
    """Where checkpoints may be that somebody calls by the name of this folder."""
    if isinstance(folder, DiskFolder) and "config.yaml" in names:
        yield checkpoints_of_run(folder.path)
    else:
        yield folder.child(CHECKPOINTS)
    yield folder
