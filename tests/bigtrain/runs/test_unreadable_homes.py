"""A run copied from a home folder without read permission can be read by another user."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigtrain.checkpoint.dangling_links import check_links
from bigtrain.checkpoint.owner import check_owner, claim_checkpoints
from bigtrain.checkpoint.run_checkpoints import checkpoints_of_run, original_of
from bigtrain.checkpoint.step_folders import folder_name
from bigtrain.config import ConfigError, RunConfig, load_run_config
from bigtrain.config.saved import load_run_of
from bigtrain.runs.resume_checks import open_checkpoints
from bigtrain.runs.run_folder import RunFolder
from tests.runs import tiny_config

_NOBODY = 65534


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder that every user can read; pytest's own folders are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "home").mkdir()
        (Path(folder) / "here").mkdir()
        monkeypatch.chdir(Path(folder) / "here")
        yield Path(folder)


@pytest.fixture
def copied(places: Path) -> Iterator[RunConfig]:
    """The config of a run that was copied to ``here/tiny``; its owner's home is now unreadable."""
    config = tiny_config(
        Path("c"), places / "home/runs", checkpoint={"dir": "ck"}, relative_to=f"{places}/home"
    )
    RunFolder(config.run_dir).begin_attempt(config, world_size=1)
    (Path("ck/tiny") / folder_name(1)).mkdir(parents=True)
    claim_checkpoints(config, open_checkpoints(config))
    shutil.copytree(config.run_dir, "tiny")
    (places / "home/secret.yaml").touch()
    Path("link").symlink_to(places / "home/runs")
    with _unreadable(places / "home"):
        yield config


class _unreadable:
    """Makes a folder unreadable for this process, even if the process runs as root."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        self._folder.chmod(0)
        if os.geteuid() == 0:
            os.seteuid(_NOBODY)

    def __exit__(self, *_: object) -> None:
        if os.getuid() == 0:
            os.seteuid(0)
        self._folder.chmod(0o755)


def test_a_copied_run_is_loaded_with_paths_relative_to_the_copy(copied: RunConfig) -> None:
    run = load_run_of(Path("tiny"))
    assert (run.name, run.checkpoint.dir, run.data.train) == ("tiny", "ck", copied.data.train)
    assert load_run_config(["tiny", "train.steps=3"]).train.steps == 3
    assert original_of(Path("tiny")) is None
    check_links(Path("link/tiny"))


def test_the_checkpoints_of_a_copied_run_are_found(copied: RunConfig) -> None:
    assert checkpoints_of_run(Path("tiny")).names() == [folder_name(1)]


def test_a_config_in_an_unreadable_folder_gives_permission_denied(
    copied: RunConfig, places: Path
) -> None:
    with pytest.raises(ConfigError, match=r"home/secret\.yaml: Permission denied"):
        load_run_config([f"{places}/home/secret.yaml"])
    with pytest.raises(ConfigError, match="no such config file"):
        load_run_config(["x" * 500])


def test_checkpoints_whose_owner_is_in_an_unreadable_home_are_refused(copied: RunConfig) -> None:
    for runs_dir in (".", "other"):  # A copy, and another run of the same name.
        run = copied.model_copy(update={"runs_dir": runs_dir})
        with pytest.raises(ConfigError, match=r"tiny\.owner\.json to take them over"):
            check_owner(run, open_checkpoints(run))
