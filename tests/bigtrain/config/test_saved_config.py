"""A renamed or moved run folder holds the same run, and its relative paths stay valid."""

import shutil
from pathlib import Path

import pytest

from bigtrain.config import load_run_config, render_config
from bigtrain.config.saved import load_run_of
from tests.bigtrain.config.small_run import SMALL_YAML, ConfigFolder, refusal

PATHS = "runs_dir: runs\ncheckpoint: {dir: ck, load: other}\n"


@pytest.fixture
def run(folder: ConfigFolder) -> Path:
    """The folder of a run, and a corpus, both in the working folder."""
    (folder.path / "corpus").mkdir()
    config = folder.load_with(PATHS).model_copy(update={"relative_to": str(folder.path)})
    return _saved(folder.path / "runs/small", render_config(config))


def _saved(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "attempts.jsonl").write_text('{"event": "start"}\n')
    (path / "config.yaml").write_text(text)
    return path


def test_the_name_of_a_run_is_the_current_name_of_its_folder(run: Path) -> None:
    moved = run.rename(run.parent / "mine")
    relative = Path("runs/mine")
    for config in (
        load_run_of(relative),
        load_run_config(["runs/mine"]),
        load_run_config(["runs/mine/config.yaml"]),
    ):
        assert (config.name, config.run_dir, config.data.train) == ("mine", relative, "corpus")
    assert load_run_of(moved).run_dir == moved
    assert load_run_config(["runs/mine", "name=fork"]).run_dir == Path("runs/fork")
    assert load_run_config(["runs/mine", "train.steps=7"]).train.steps == 7


def test_relative_paths_are_valid_from_another_working_folder(
    run: Path, folder: ConfigFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "else/where"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    moved = Path(shutil.move(run, elsewhere / "mine"))
    assert moved.is_dir()
    config = load_run_config(["mine", "data.validation=mine/text"])
    assert config.run_dir == Path("mine")
    assert config.data.train == f"{folder.path}/corpus"
    assert (config.checkpoint.dir, config.checkpoint.load) == (
        f"{tmp_path}/ck",
        f"{tmp_path}/other",
    )
    assert config.data.validation == "mine/text"  # From the command line, not from the file.


@pytest.mark.parametrize("notes_its_folder", [True, False])
def test_a_moved_tree_is_found_from_any_working_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes_its_folder: bool
) -> None:
    if not notes_its_folder:  # The format of an older version.
        text = "".join(line for line in (run / "config.yaml").open() if "relative_to" not in line)
        (run / "config.yaml").write_text(text)
    new = tmp_path / "new"
    new.mkdir()
    for name in ("runs", "corpus"):
        shutil.move(tmp_path / name, new / name)
    (tmp_path / "far").mkdir()
    monkeypatch.chdir(tmp_path / "far")
    assert load_run_of(Path("../new/runs/small")).data.train == f"{new}/corpus"


def test_paths_of_an_older_versions_run_are_relative_to_the_working_folder(
    folder: ConfigFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _saved(folder.path / "archive/old", SMALL_YAML)
    assert load_run_of(run).data.train == "corpus"
    (folder.path / "x").mkdir()
    monkeypatch.chdir("x")
    assert load_run_of(run).data.train == "corpus"


def test_a_link_to_a_run_folder_is_that_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("latest").symlink_to(run)
    assert load_run_of(Path("latest")).run_dir == run
    monkeypatch.chdir(run)
    assert load_run_of(Path()).run_dir == run


def test_paths_of_a_saved_config_are_not_expanded_again(folder: ConfigFolder) -> None:
    Path("~/$ODD").mkdir(parents=True)
    _saved(folder.path / "runs/$ODD~", SMALL_YAML.replace("corpus", "'~/$ODD'"))
    assert load_run_of(Path("runs/$ODD~")).data.train == "~/$ODD"
    assert load_run_config(["runs/$ODD~"]).name == "$ODD~"


def test_a_file_may_set_the_folder_of_its_relative_paths(folder: ConfigFolder) -> None:
    config = folder.load_with("relative_to: /data\nruns_dir: runs\ncheckpoint: {dir: /ck}\n")
    assert (config.runs_dir, config.checkpoint.dir) == ("/data/runs", "/ck")
    assert config.data.train == "corpus"  # From the other file.
    assert config.relative_to is None
    assert "belongs in the file" in folder.refuse("relative_to=/data")


def test_a_folder_that_is_not_a_run_folder_is_named(folder: ConfigFolder) -> None:
    for name in ("empty", "full/inner", "project"):
        Path(name).mkdir(parents=True)
    folder.write("project/config.yaml", SMALL_YAML)
    assert "empty: no such config file: it is an empty folder" in refusal(["empty"])
    assert "full: no such config file: it is a folder without a config.yaml" in refusal(["full"])
    assert "in which no run has begun; give project/config.yaml" in refusal(["project"])
    assert load_run_config(["project/config.yaml"]).name == "small"


def test_a_variable_in_the_saved_config_of_a_run_is_refused_by_name(
    run: Path,
) -> None:
    text = (run / "config.yaml").read_text()
    for written in ("$SCRATCH/ck", "${SCRATCH}/ck", "~/ck"):
        (run / "config.yaml").write_text(text.replace("dir: ck", f"dir: {written}"))
        assert refusal([str(run)]).startswith(
            f"{run}/config.yaml: checkpoint.dir='{written}': a path in the config of a run is not"
        )
    (run.parents[1] / "~/ck").mkdir(parents=True)  # An older version may have made it.
    assert load_run_of(run).checkpoint.dir == "~/ck"


def test_a_missing_run_folder_is_named_without_the_installed_configs(
    folder: ConfigFolder,
) -> None:
    Path("runs").mkdir()
    Path("runs/link").symlink_to("/no/such/disk")
    assert refusal(["runs/nope"]) == (
        "runs/nope: no such config file or run folder; give a YAML file, or a folder such as "
        "runs/gpt-tiny"
    )
    for name in ("runs/link", "runs/link/tiny"):
        assert refusal([name]).startswith("runs/link: a link to /no/such/disk, which is not there")
