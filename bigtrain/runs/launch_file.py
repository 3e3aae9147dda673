"""The checked config of one launch, as a file in the run folder that every rank reads."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bigtrain.config import RunConfig, render_config
from data_tools.locks import try_lock, wait_for_lock

_PREFIX = "config-launch-"


@contextmanager
def launch_file(config: RunConfig) -> Iterator[Path]:
    """Writes the config into its run folder, and removes the file at the end.

    The name is unique: another launch of the same run may start at the same time.
    """
    file = config.run_dir / f"{_PREFIX}{secrets.token_hex(4)}.yaml"
    config.run_dir.mkdir(parents=True, exist_ok=True)
    with file.open("x", encoding="utf-8") as launch:
        wait_for_lock(launch)  # Held until this process ends, however it ends.
        launch.write(render_config(config))
        launch.flush()
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)


def has_launcher(run_dir: Path) -> bool:
    """Whether a launcher on this machine has started the run and has not ended."""
    for file in run_dir.glob(f"{_PREFIX}*"):
        with suppress(OSError), file.open("r") as launch:
            if not try_lock(launch, shared=True):
                return True
    return False


def remove_abandoned_launch_files(run_dir: Path) -> None:
    """Removes the launch files of launchers that were killed: nobody holds their locks."""
    for file in run_dir.glob(f"{_PREFIX}*"):
        with suppress(OSError), file.open("r+") as launch:
            if try_lock(launch):
                file.unlink()
