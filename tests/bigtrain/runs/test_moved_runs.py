"""A renamed run folder is still the same run; a copy shares no checkpoints with its original."""

import shutil
from pathlib import Path

import pytest

from bigtrain.checkpoint.owner import claim_checkpoints
from bigtrain.checkpoint.retention import set_aside
from bigtrain.checkpoint.run_checkpoints import (
    absolute_place,
    checkpoints_of_run,
    fork_command,
    original_of,
)
from bigtrain.checkpoint.step_folders import folder_name
from bigtrain.checkpoint.storage_folder import DiskFolder
from bigtrain.commands.checkpoint.prune import PruneRequest, plan_prune
from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.saved import load_run_of
from bigtrain.runs.launch_file import launch_file
from bigtrain.runs.resolve_run import resolve_run
from bigtrain.runs.resume_checks import check_run, open_checkpoints
from bigtrain.runs.rewind import RewindResult, render_rewind, rewind_run
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.wandb_id import read_or_create_wandb_id
from tests.runs import tiny_config


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run with one checkpoint outside the run folder."""
    monkeypatch.chdir(tmp_path)
    config = tiny_config(
        Path("c"), Path("runs"), checkpoint={"dir": "ck"}, relative_to=str(tmp_path)
    )
    _begin(config)
    (tmp_path / "ck/tiny" / folder_name(1)).mkdir(parents=True)
    return config


def _begin(config: RunConfig, **options: int) -> RunFolder:
    folder = RunFolder(config.run_dir)
    folder.begin_attempt(
        config, world_size=options.get("world_size", 1), checkpoints=open_checkpoints(config)
    )
    read_or_create_wandb_id(folder.path)
    return folder


def _renamed(config: RunConfig, name: str) -> Path:
    return config.run_dir.rename(config.run_dir.with_name(name))


def test_a_renamed_run_keeps_its_checkpoints_and_its_wandb_run(config: RunConfig) -> None:
    wandb_id = read_or_create_wandb_id(config.run_dir)
    for name in ("mine", "mine again"):
        renamed = load_run_of(_renamed(config, name))
        assert str(open_checkpoints(renamed)).endswith("ck/tiny")
        folder = _begin(renamed)  # Its config now has the new name.
        assert str(folder.checkpoints).endswith("ck/tiny")
        assert read_or_create_wandb_id(folder.path) == wandb_id
        config = renamed


def test_a_run_of_an_older_version_keeps_its_checkpoints_when_it_is_renamed(
    config: RunConfig,
) -> None:
    (config.run_dir / "attempts.jsonl").write_text('{"event": "start", "attempt": 1}\n')
    assert str(open_checkpoints(load_run_of(_renamed(config, "mine")))) == "ck/tiny"


def test_a_name_override_makes_another_run(config: RunConfig) -> None:
    other = resolve_run([str(config.run_dir), "name=other"])
    assert str(open_checkpoints(other)) == "ck/other"


def test_a_copy_may_not_change_the_checkpoints_of_its_original(config: RunConfig) -> None:
    copy = Path(shutil.copytree(config.run_dir, "runs/copy"))
    original = config.run_dir.resolve()
    assert original_of(copy) == original
    assert checkpoints_of_run(copy).names() == [folder_name(1)]  # Reading is allowed.
    fork = f"bigtrain launch {original} name=NAME checkpoint.load={original}"
    for change in (
        lambda: open_checkpoints(load_run_of(copy)),
        lambda: rewind_run(copy, to=0),
        lambda: plan_prune(copy, PruneRequest(keep_last=1)),
    ):
        with pytest.raises(ConfigError, match=r"is a copy of .*the checkpoints to ck/") as caught:
            change()
        assert fork in str(caught.value)
    shutil.copytree("ck/tiny", "ck/copy")
    assert str(open_checkpoints(load_run_of(copy))) == "ck/copy"
    rewind_run(copy, to=0)
    assert Path("ck/tiny", folder_name(1)).is_dir()


def test_a_copy_of_a_renamed_run_may_not_change_its_checkpoints(config: RunConfig) -> None:
    claim_checkpoints(config, open_checkpoints(config))
    copy = Path(shutil.copytree(_renamed(config, "q"), "runs/copy"))
    for change in (
        lambda: rewind_run(copy, to=0),
        lambda: plan_prune(copy, PruneRequest(keep_last=1)),
    ):
        with pytest.raises(ConfigError, match=r"copy is a copy of that run, as is .*runs/q"):
            change()


def test_a_run_in_a_copied_project_uses_the_copied_checkpoints(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tmp_path, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    checkpoints = open_checkpoints(config)
    assert checkpoints.names() == [folder_name(1)]
    assert absolute_place(checkpoints) == f"{tmp_path}/project/ck/tiny"


def test_a_renamed_run_that_was_rewound_to_step_0_keeps_its_checkpoint_folder(
    config: RunConfig,
) -> None:
    renamed = _renamed(config, "mine")
    set_aside(DiskFolder(Path("ck/tiny", folder_name(1))), "rewound")
    assert str(open_checkpoints(load_run_of(renamed))).endswith("ck/tiny")
    shutil.move("ck/tiny", "ck/mine")  # Renamed like the run.
    Path("ck/mine", folder_name(2)).mkdir()
    assert str(open_checkpoints(load_run_of(renamed))).endswith("ck/mine")


def test_a_copy_of_the_same_name_may_not_change_the_checkpoints(config: RunConfig) -> None:
    copy = Path(shutil.copytree(config.run_dir, f"backup/{config.name}"))
    with pytest.raises(ConfigError, match=r"rename the copy to NAME and copy the .* to ck/NAME"):
        open_checkpoints(load_run_of(copy))


def test_a_trained_copy_gets_its_own_wandb_run(config: RunConfig) -> None:
    copy = Path(shutil.copytree(config.run_dir, "runs/copy"))
    shutil.copytree("ck/tiny", "ck/copy")
    wandb_id = read_or_create_wandb_id(copy)
    assert read_or_create_wandb_id(config.run_dir) == wandb_id
    folder = _begin(load_run_of(copy))
    own = read_or_create_wandb_id(folder.path)
    assert own != wandb_id
    _begin(load_run_of(copy))  # The next attempt keeps the id.
    assert (original_of(copy), read_or_create_wandb_id(folder.path)) == (None, own)


def test_a_moved_folder_is_not_a_copy(config: RunConfig, tmp_path: Path) -> None:
    moved = Path(shutil.move(config.run_dir, tmp_path / "archive"))
    assert original_of(moved) is None
    Path("linked").symlink_to(moved)
    assert original_of(Path("linked")) is None


def test_the_next_command_names_the_folder_quoted_and_with_its_processes(
    config: RunConfig,
) -> None:
    _begin(config, world_size=4)
    moved = _renamed(config, "it's mine")
    [*_, last] = render_rewind(RewindResult(moved, step=0, set_aside=(), skipped=None))
    assert last == """next: bigtrain launch 'runs/it'"'"'s mine' --processes 4"""


def test_a_folder_named_like_an_option_is_escaped_in_the_next_command(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    _renamed(config, "-d")
    monkeypatch.chdir("runs")
    assert RunFolder(Path("-d")).resume_command()[2] == "./-d"
    assert "launch ./-d name=NAME" in fork_command(Path("-d"))


def test_the_next_attempt_removes_the_config_of_a_killed_launcher(config: RunConfig) -> None:
    left = config.run_dir / "config-launch-12345678.yaml"
    left.touch()
    _begin(config)
    assert not left.exists()


def test_each_launch_writes_its_own_config_file_and_removes_it(
    config: RunConfig,
) -> None:
    folder = RunFolder(config.run_dir)
    before = folder.config.read_text()
    changed = config.model_copy(update={"seed": 8})
    with launch_file(config) as one, launch_file(changed) as other:
        assert one != other
        assert ("seed: 7" in one.read_text(), "seed: 8" in other.read_text()) == (True, True)
        _begin(config)
        assert other.is_file()  # A starting attempt keeps the files of running launchers.
    assert not [*folder.path.glob("config-launch-*")]
    assert folder.config.read_text() == before


def test_a_file_in_the_place_of_the_run_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "tiny").write_text("")
    with pytest.raises(ConfigError, match="tiny is a file, where the run folder would be"):
        check_run(tiny_config(Path("c"), tmp_path))
    with pytest.raises(ConfigError, match="tiny is a file"):
        check_run(tiny_config(Path("c"), tmp_path / "tiny"))
