"""Imports the Hugging Face folder that a run's `checkpoint.load` names, before its ranks start."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from bigtrain.checkpoint.commit import open_state
from bigtrain.checkpoint.hugging_face_folder import IMPORTED, fingerprint, is_hugging_face_folder
from bigtrain.checkpoint.schema import CheckpointError
from bigtrain.checkpoint.step_folders import named_folders
from bigtrain.checkpoint.storage_folder import DiskFolder
from bigtrain.config import ConfigError, RunConfig
from bigtrain.runs.resume_checks import check_run, open_checkpoints


def with_imported_weights(config: RunConfig, *, accepted: Sequence[str]) -> RunConfig:
    """Imports the folder once into the run folder, and lets the run start from that checkpoint.

    Args:
        config: The run, checked except for the weights.
        accepted: Keys that may differ from the model's.

    Returns:
        The config, with ``checkpoint.load`` at the import. It is unchanged if the run does not
        load a Hugging Face folder, or has checkpoints of its own.

    Raises:
        ConfigError: The model of the folder is not the run's.
        Exit: The folder was refused; the reason is on the terminal.
    """
    load = config.checkpoint.load
    if load is None or not is_hugging_face_folder(load):
        return config
    if named_folders(open_checkpoints(config)):
        return config
    out = config.run_dir / IMPORTED
    if not _is_import_of(out, Path(load)):
        _check_replaceable(out)
        shutil.rmtree(out, ignore_errors=True)
        # In a process of its own, whose memory is free again when the ranks start.
        command = [sys.executable, "-m", "bigtrain.cli", "import-hf", load, "--out", str(out)]
        done = subprocess.run([*command, "--seed", str(config.seed)], check=False)
        if done.returncode:
            _remove_empty(config.run_dir)
            raise typer.Exit(done.returncode)
    checkpoint = config.checkpoint.model_copy(update={"load": str(out)})
    config = config.model_copy(update={"checkpoint": checkpoint})
    check_run(config, accepted=accepted)
    return config


def _is_import_of(out: Path, folder: Path) -> bool:
    """Whether ``out`` is a complete import of the folder as it is now."""
    origin = _origin(out)
    return origin is not None and origin.get("fingerprint") == fingerprint(folder)


def _check_replaceable(out: Path) -> None:
    """Checks that nothing but an earlier import is removed.

    Raises:
        ConfigError: There is something else.
    """
    if out.exists() and _origin(out) is None:
        raise ConfigError(
            f"{out}: the import of checkpoint.load belongs there, and it is not an earlier import; "
            "move it away"
        )


def _origin(folder: Path) -> dict[str, Any] | None:
    try:
        return open_state(DiskFolder(folder)).origin
    except CheckpointError:
        return None


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
