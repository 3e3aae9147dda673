"""Where the checkpoints of a run are, and which checkpoint a user means. No torch."""

from pathlib import Path

from bigtrain.checkpoint.folder import DiskFolder, Folder, open_folder
from bigtrain.checkpoint.format import (
    CHECKPOINTS,
    COMMIT_FILE,
    STATE_FILE,
    CheckpointError,
    newest_whole,
)
from bigtrain.config import load_run_config


def checkpoints_of_run(run_dir: Path) -> Folder:
    """The folder of a run's checkpoints, which its config may have put elsewhere.

    Raises:
        ConfigError: The run's config.yaml cannot be read.
    """
    config = run_dir / "config.yaml"
    if config.is_file():
        checkpoint = load_run_config([str(config)]).checkpoint
        if checkpoint.dir is not None:
            return open_folder(checkpoint.dir).child(run_dir.name)
    return DiskFolder(run_dir / CHECKPOINTS)


def find_checkpoint(place: str | Path) -> tuple[Folder, list[str]]:
    """The checkpoint that a user means.

    Args:
        place: A checkpoint, a run folder, or a folder of checkpoints (the newest whole one of
            these); a path or an fsspec URL.

    Returns:
        Its folder, and one line for each newer one passed over.

    Raises:
        CheckpointError: There is none.
    """
    folder = open_folder(place)
    names = folder.names()
    if COMMIT_FILE in names or STATE_FILE in names:
        return folder, []
    is_run = "config.yaml" in names and isinstance(folder, DiskFolder)
    of_run = checkpoints_of_run(folder.path) if is_run else folder.child(CHECKPOINTS)
    passed_over: list[str] = []
    for checkpoints in (of_run, folder):
        newest, lines = newest_whole(checkpoints)
        passed_over += lines
        if newest is not None:
            return newest, passed_over
    if passed_over:
        raise CheckpointError(f"{place}: no checkpoint can be read; {'; '.join(passed_over)}")
    raise CheckpointError(
        f"{place}: neither a checkpoint nor a run folder with one; "
        "give a folder such as runs/NAME/checkpoints/step-00000100"
    )
