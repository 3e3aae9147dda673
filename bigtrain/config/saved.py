"""Reads back the config that a run has saved.

The folder may have been moved or renamed. Its current name is the run's name; relative paths still
point to the same files.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bigtrain.config.errors import ConfigError, render_validation_error
from bigtrain.config.paths import check_expanded, move_relative_paths, path_exists, relative_paths
from bigtrain.config.run import RunConfig
from bigtrain.config.yaml12 import read_yaml_mapping

CONFIG_FILE = "config.yaml"
ATTEMPTS_FILE = "attempts.jsonl"
_OF_AN_ATTEMPT = "config-attempt-*.yaml"


def run_folder_of(place: Path) -> Path | None:
    """The run folder at ``place``, or the one whose config ``place`` is; None if it is neither."""
    is_config = place.is_file() and (place.name == CONFIG_FILE or place.match(_OF_AN_ATTEMPT))
    folder = place.parent if is_config else place
    if not (folder / CONFIG_FILE).is_file():
        return None
    has_begun = (folder / ATTEMPTS_FILE).is_file() or any(folder.glob(_OF_AN_ATTEMPT))
    return folder if has_begun else None


def load_run_of(run_dir: Path, file: str = CONFIG_FILE) -> RunConfig:
    """Reads the config of the run in a folder.

    Args:
        run_dir: The run folder.
        file: The config file to read; by default that of the newest attempt.

    Returns:
        The config, named as the folder is now. Its relative paths start from the working folder.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return RunConfig.model_validate(read_run_values(run_dir, file))
    except ValidationError as error:
        where = str(run_dir / file)
        raise ConfigError(render_validation_error(error, RunConfig, where)) from None


def read_run_values(run_dir: Path, file: str = CONFIG_FILE) -> dict[str, Any]:
    """Reads the values that `load_run_of` validates, to merge files and overrides into them."""
    values = read_yaml_mapping(run_dir / file)
    place = _without_link(run_dir)
    values = with_paths_from_working_folder(values, ran_in=_tree_of(values, place))
    try:
        check_expanded(values, RunConfig)
    except ConfigError as error:
        raise ConfigError(f"{run_dir / file}: {error}") from None
    return {**values, "name": place.name, "runs_dir": str(place.parent)}


def written_name(run_dir: Path) -> str:
    """The name that the run had when it wrote its newest config."""
    return str(read_yaml_mapping(run_dir / CONFIG_FILE).get("name"))


def with_paths_from_working_folder(
    values: Mapping[str, Any], *, ran_in: Sequence[Path] = ()
) -> dict[str, Any]:
    """Makes the relative paths of a saved config start from the working folder.

    They start from the folder that the run recorded. If none of the paths exists there, because a
    parent folder was moved or an older version recorded no folder, they start from the first folder
    of ``ran_in`` in which one exists, else from the working folder.
    """
    values = dict(values)
    recorded = values.pop("relative_to", None)
    starts = [*([Path(recorded)] if isinstance(recorded, str) else []), *ran_in, Path.cwd()]
    inputs = {name: value for name, value in values.items() if name != "runs_dir"}
    default = starts[0] if recorded and path_exists(starts[0]) else Path.cwd()
    start = _first_with_any(starts, relative_paths(inputs, RunConfig), default=default)
    return move_relative_paths(values, RunConfig, start)


def _first_with_any(starts: Sequence[Path], paths: Sequence[str], *, default: Path) -> Path:
    """The first folder in which one of the relative paths exists.

    In a folder that this user may not enter, such as another user's home, nothing exists.
    """
    return next(
        (start for start in starts if any(path_exists(start / path) for path in paths)), default
    )


def _without_link(run_dir: Path) -> Path:
    """The folder that a link, or a path such as ``.``, leads to."""
    return run_dir.resolve() if run_dir.is_symlink() or run_dir.name in ("", "..") else run_dir


def _tree_of(values: Mapping[str, Any], run_dir: Path) -> list[Path]:
    """The folder where the run was started, if the folder's path still ends with ``runs_dir``."""
    runs_dir = os.path.normpath(str(values.get("runs_dir", "runs")))
    parent = Path(os.path.normpath(run_dir.absolute())).parent
    if Path(runs_dir).is_absolute() or runs_dir.startswith(".."):
        return []
    if runs_dir == ".":
        return [parent]
    depth = len(Path(runs_dir).parts)
    is_below_runs_dir = parent.parts[-depth:] == Path(runs_dir).parts
    return [Path(*parent.parts[:-depth])] if is_below_runs_dir else []
