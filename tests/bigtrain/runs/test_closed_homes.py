"""A run or checkpoint that was copied from a closed home can be read by another user."""

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
    """A working folder that every user may enter; pytest's own folders are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "home").mkdir()
        (Path(folder) / "here").mkdir()
        monkeypatch.chdir(Path(folder) / "here")
        yield Path(folder)


@pytest.fixture
def copied(places: Path) -> Iterator[RunConfig]:
    """The config of a run that was copied to ``here/tiny``; its owner's home is closed now."""
    config = tiny_config(
        Path("c"), places / "home/runs", checkpoint={"dir": "ck"}, relative_to=f"{places}/home"
    )
    RunFolder(config.run_dir).begin_attempt(config, world_size=1)
    (Path("ck/tiny") / folder_name(1)).mkdir(parents=True)
    claim_checkpoints(config, open_checkpoints(config))
    shutil.copytree(config.run_dir, "tiny")
    (places / "home/secret.yaml").touch()
    Path("link").symlink_to(places / "home/runs")
    with _closed(places / "home"):
        yield config


class _closed:
    """Closes a folder to this process, also where that is root's."""

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


def test_a_copied_run_is_read_where_its_relative_paths_lead_here(copied: RunConfig) -> None:
    run = load_run_of(Path("tiny"))
    assert (run.name, run.checkpoint.dir, run.data.train) == ("tiny", "ck", copied.data.train)
    assert load_run_config(["tiny", "train.steps=3"]).train.steps == 3
    assert original_of(Path("tiny")) is None
    check_links(Path("link/tiny"))


def test_the_checkpoints_of_a_copied_run_are_found(copied: RunConfig) -> None:
    assert checkpoints_of_run(Path("tiny")).names() == [folder_name(1)]


def test_a_config_in_a_closed_folder_is_named_as_closed(copied: RunConfig, places: Path) -> None:
    with pytest.raises(ConfigError, match=r"home/secret\.yaml: Permission denied"):
        load_run_config([f"{places}/home/secret.yaml"])
    with pytest.raises(ConfigError, match="no such config file"):
        load_run_config(["x" * 500])


def test_checkpoints_whose_owner_is_in_a_closed_home_are_refused(copied: RunConfig) -> None:
    for runs_dir in (".", "other"):  # A copy, and another run of that name.
        run = copied.model_copy(update={"runs_dir": runs_dir})
        with pytest.raises(ConfigError, match=r"tiny\.owner\.json to take them over"):
            check_owner(run, open_checkpoints(run))
