"""Two runs of the same name in different runs_dirs never share checkpoints in checkpoint.dir."""

import json
import logging
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigtrain.checkpoint.owner import check_owner, claim_checkpoints
from bigtrain.checkpoint.storage_folder import DiskFolder, Folder, open_folder
from bigtrain.config import ConfigError, RunConfig
from tests.runs import tiny_config


@pytest.fixture(params=["disk", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A ``checkpoint.dir``: a path on the disk, or a URL."""
    if request.param == "disk":
        yield str(tmp_path / "checkpoints")
        return
    yield f"memory://{tmp_path.name}/checkpoints"


def _check(run: RunConfig) -> None:
    check_owner(run, _checkpoints(run))


def _claim(run: RunConfig) -> None:
    claim_checkpoints(run, _checkpoints(run))


def _checkpoints(run: RunConfig) -> Folder:
    return open_folder(run.checkpoint.dir or run.run_dir).child(run.name)


def _run(tmp_path: Path, place: str, runs: str = "a") -> RunConfig:
    config = tiny_config(tmp_path, tmp_path / runs, checkpoint={"dir": place})
    config.run_dir.mkdir(parents=True, exist_ok=True)
    return config


def test_a_second_run_of_the_same_name_is_refused_with_remedies(tmp_path: Path, place: str) -> None:
    first, second = _run(tmp_path, place), _run(tmp_path, place, "b")
    _claim(first)
    for refuses in (_check, _claim):
        with pytest.raises(ConfigError) as error:
            refuses(second)
        message = str(error.value)
        assert f"belong to {first.run_dir}" in message
        assert f"{second.run_dir} is another run" in message
        assert f"remove {place}/tiny.owner.json to take them over" in message
    _check(first)


def test_the_owner_can_claim_repeatedly(tmp_path: Path, place: str) -> None:
    run = _run(tmp_path, place)
    for _ in range(3):
        _check(run)
        _claim(run)


def test_a_moved_run_folder_is_still_the_owner_and_a_new_folder_in_its_place_is_not(
    tmp_path: Path, place: str
) -> None:
    run = _run(tmp_path, place)
    _claim(run)
    (tmp_path / "a").rename(tmp_path / "moved")
    moved = _run(tmp_path, place, "moved")
    _check(moved)
    _claim(moved)
    with pytest.raises(ConfigError, match="is another run"):
        _check(_run(tmp_path, place))


def test_a_copied_run_folder_is_not_the_owner(tmp_path: Path, place: str) -> None:
    run = _run(tmp_path, place)
    _claim(run)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ConfigError, match="is a copy of that run"):
        _check(_run(tmp_path, place, "b"))
    _check(run)


def test_a_removed_and_recreated_run_folder_is_the_owner(tmp_path: Path, place: str) -> None:
    run = _run(tmp_path, place)
    _claim(run)
    shutil.rmtree(run.run_dir)
    _claim(_run(tmp_path, place))


def test_the_same_path_on_another_machine_is_another_run(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(tmp_path, place)
    _claim(run)
    monkeypatch.setattr(socket, "gethostname", lambda: "node-b")
    _claim(run)  # Both machines share the run folder.
    shutil.rmtree(run.run_dir)
    monkeypatch.setattr(socket, "gethostname", lambda: "node-c")
    with pytest.raises(ConfigError, match=r"on node-b, and .* is another run"):
        _check(_run(tmp_path, place))


def test_if_two_runs_claim_at_the_same_time_the_last_one_owns_the_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "checkpoints")
    first, second = _run(tmp_path, place), _run(tmp_path, place, "b")
    write = DiskFolder.write

    def write_then_let_second_claim(folder: DiskFolder, name: str, data: bytes) -> None:
        write(folder, name, data)
        if name != "tiny.owner.json":
            return
        monkeypatch.undo()
        (tmp_path / "checkpoints/tiny.owner.json").rename(tmp_path / "first")
        _claim(second)

    monkeypatch.setattr(DiskFolder, "write", write_then_let_second_claim)
    with pytest.raises(ConfigError, match="is another run"):
        _claim(first)
    _check(second)


def test_a_recreated_run_takes_over_its_old_checkpoints_with_a_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "checkpoints"
    run = _run(tmp_path, str(place))
    _claim(run)
    (place / "tiny" / "step-00000010").mkdir(parents=True)
    shutil.rmtree(run.run_dir)
    _claim(_run(tmp_path, str(place)))
    assert f"these checkpoints belonged to {run.run_dir} on " in caplog.text


def test_a_new_run_with_the_old_name_of_a_renamed_run_is_refused(
    tmp_path: Path, place: str
) -> None:
    run = _run(tmp_path, place)
    _claim(run)
    run.run_dir.rename(tmp_path / "a/renamed")
    for _ in range(2):  # Once before its folder exists, once after.
        with pytest.raises(ConfigError, match=r"another run \(that one is in .*a/renamed now\)"):
            _check(run)
        run.run_dir.mkdir(exist_ok=True)


def test_neither_a_renamed_run_nor_its_copy_is_the_owner(tmp_path: Path, place: str) -> None:
    run = _run(tmp_path, place)
    _claim(run)
    renamed = run.model_copy(update={"name": "q"})
    run.run_dir.rename(renamed.run_dir)
    checkpoints = _checkpoints(run)
    check_owner(renamed, checkpoints)
    for copy in ("a/k", "b/q"):
        shutil.copytree(renamed.run_dir, tmp_path / copy)
        config = run.model_copy(
            update={"name": copy[2:], "runs_dir": str((tmp_path / copy).parent)}
        )
        with pytest.raises(ConfigError, match="a copy of that run, as is "):
            check_owner(config, checkpoints)


def test_a_run_with_a_copy_that_has_its_own_checkpoints_can_be_renamed(
    tmp_path: Path, place: str
) -> None:
    run = _run(tmp_path, place)
    _claim(run)
    copy = run.model_copy(update={"name": "copy"})
    shutil.copytree(run.run_dir, copy.run_dir)
    _claim(copy)
    renamed = run.model_copy(update={"name": "renamed"})
    run.run_dir.rename(renamed.run_dir)
    check_owner(renamed, _checkpoints(run))
    _check(copy)


def test_old_checkpoints_without_an_owner_are_taken_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "checkpoints"
    (place / "tiny" / "step-00000010").mkdir(parents=True)
    run = _run(tmp_path, str(place))
    _check(run)
    with caplog.at_level(logging.WARNING):
        _claim(run)
    assert "had no owner" in caplog.text
    caplog.clear()
    _claim(run)
    assert not caplog.text
    with pytest.raises(ConfigError, match="is another run"):
        _check(_run(tmp_path, str(place), "b"))


def test_after_its_owner_file_is_removed_checkpoints_can_be_claimed(tmp_path: Path) -> None:
    place = tmp_path / "checkpoints"
    first, second = _run(tmp_path, str(place)), _run(tmp_path, str(place), "b")
    _claim(first)
    (place / "tiny.owner.json").unlink()
    _claim(second)
    with pytest.raises(ConfigError, match="is another run"):
        _check(first)


def test_a_truncated_owner_file_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "checkpoints"
    run = _run(tmp_path, str(place))
    _claim(run)
    (place / "tiny.owner.json").write_text('{"run_id": "12')
    _claim(run)
    assert json.loads((place / "tiny.owner.json").read_text())["run_folder"] == str(run.run_dir)


def test_checkpoints_in_the_run_folder_need_no_owner(tmp_path: Path) -> None:
    run = tiny_config(tmp_path, tmp_path)
    _claim(run)
    assert not list(tmp_path.rglob("*"))
