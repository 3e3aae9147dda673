"""Where the checkpoints of a run are, and whether another run owns them. No torch."""

import shlex
from pathlib import Path
from typing import Any

from bigtrain.checkpoint.step_folders import CHECKPOINTS, named_folders
from bigtrain.checkpoint.storage_folder import DiskFolder, Folder, open_folder
from bigtrain.config import ConfigError
from bigtrain.config.saved import ATTEMPTS_FILE, CONFIG_FILE, load_run_of, written_name
from bigtrain.track.json_lines import read_lines


def checkpoints_of_run(run_dir: Path) -> Folder:
    """The folder of a run's checkpoints, which its config may have put elsewhere.

    There they keep the run's old name if the run folder is renamed.

    Raises:
        ConfigError: The run's config.yaml cannot be read.
    """
    if not (run_dir / CONFIG_FILE).is_file():
        return DiskFolder(run_dir / CHECKPOINTS)
    run = load_run_of(run_dir)
    if run.checkpoint.dir is None:
        return DiskFolder(run_dir / CHECKPOINTS)
    elsewhere = open_folder(run.checkpoint.dir)
    if original_of(run_dir) is not None and named_folders(elsewhere.child(run.name)):
        return elsewhere.child(run.name)
    recorded = _newest_start(run_dir).get("checkpoints")
    name = recorded.rpartition("/")[2] if isinstance(recorded, str) else written_name(run_dir)
    return elsewhere.child(name)


def original_of(run_dir: Path) -> Path | None:
    """The run folder that this one was copied from, if it is still there.

    None if the folder was moved, if the copy has begun an attempt of its own, or if this user may
    not read the original. If the original was moved and the copy took its place, the moved folder
    counts as the copy.
    """
    recorded = _newest_start(run_dir).get("folder")
    if not isinstance(recorded, str):
        return None
    original = Path(recorded)
    try:
        is_copy = not original.samefile(run_dir) and _first_start(original) == _first_start(run_dir)
    except OSError:
        return None
    return original if is_copy else None


def check_checkpoints_are_its_own(run_dir: Path) -> None:
    """Checks, before a run's checkpoints are changed, that they are not those of its original.

    Raises:
        ConfigError: The folder is a copy of a run that keeps its checkpoints elsewhere.
    """
    original = original_of(run_dir)
    if original is None:
        return
    run = load_run_of(run_dir)
    if run.checkpoint.dir is None:
        return
    theirs = checkpoints_of_run(original)
    if not is_same_place(checkpoints_of_run(run_dir), theirs):
        return
    elsewhere = open_folder(run.checkpoint.dir)
    has_same_name = is_same_place(elsewhere.child(run.name), theirs)
    rename = "rename the copy to NAME and " if has_same_name else ""
    raise ConfigError(
        f"{run_dir} is a copy of {original}, whose checkpoints are in {theirs}; to train the copy "
        f"as a separate run, start `{fork_command(original)}`; or {rename}copy the checkpoints to "
        f"{elsewhere.child('NAME' if has_same_name else run.name)}"
    )


def fork_command(run_dir: Path) -> str:
    """The command that starts a new run from the newest checkpoint of a run."""
    overrides = ["name=NAME", f"checkpoint.load={run_dir}"]
    return shlex.join(["bigtrain", "launch", path_argument(run_dir), *overrides])


def path_argument(path: Path) -> str:
    """A path as an argument of a command, never read as an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def is_same_place(one: Folder, other: Folder) -> bool:
    """Whether two paths or URLs are the same folder."""
    return absolute_place(one) == absolute_place(other)


def absolute_place(folder: Folder) -> str:
    """A folder's URL or its absolute path, without links."""
    return str(folder.path.resolve()) if isinstance(folder, DiskFolder) else str(folder)


def _starts(run_dir: Path) -> list[dict[str, Any]]:
    file = run_dir / ATTEMPTS_FILE
    lines = read_lines(file) if file.is_file() else ()
    return [line for line in lines if line.get("event") == "start"]


def _first_start(run_dir: Path) -> dict[str, Any]:
    return next(iter(_starts(run_dir)), {})


def _newest_start(run_dir: Path) -> dict[str, Any]:
    return next(reversed(_starts(run_dir)), {})
