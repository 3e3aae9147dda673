"""The files of a run folder: attempts, status and wandb id."""

import json
import os
from pathlib import Path

import pytest

from bigtrain.config import ConfigError, load_run_config
from bigtrain.runs.resolve_run import resolve_run
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.wandb_id import read_or_create_wandb_id
from bigtrain.track.json_lines import read_lines
from tests.runs import tiny_config


def test_each_attempt_leaves_its_config_its_start_and_its_end(tmp_path: Path) -> None:
    path = tmp_path / "tiny"
    for steps in (10, 20):
        config = tiny_config(Path("c"), tmp_path, train={"steps": steps})
        folder = RunFolder(path)
        number = folder.begin_attempt(config, world_size=steps)
        folder.end_attempt(number, state="stopped", step=steps, reason="SIGTERM")
    assert load_run_config([str(path / "config-attempt-1.yaml")]).train.steps == 10
    assert load_run_config([str(path / "config.yaml")]) == config
    events = [json.loads(line) for line in (path / "attempts.jsonl").read_text().splitlines()]
    assert [(e["event"], e["attempt"]) for e in events] == [
        ("start", 1),
        ("end", 1),
        ("start", 2),
        ("end", 2),
    ]
    assert events[2]["world_size"] == 20
    assert events[3]["reason"] == "SIGTERM"


def test_a_killed_attempt_is_counted(tmp_path: Path) -> None:
    config = tiny_config(Path("c"), tmp_path)
    assert RunFolder(tmp_path / "tiny").begin_attempt(config, world_size=1) == 1
    with (tmp_path / "tiny/attempts.jsonl").open("a") as file:
        file.write('{"event": "en')
    assert RunFolder(tmp_path / "tiny").begin_attempt(config, world_size=1) == 2
    assert RunFolder(tmp_path / "tiny").begin_attempt(config, world_size=1) == 3
    lines = list(read_lines(tmp_path / "tiny/attempts.jsonl"))
    assert [line["attempt"] for line in lines] == [1, 2, 3]


def test_only_old_temporary_files_are_removed(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tmp_path)
    config.run_dir.mkdir()
    old, new = config.run_dir / ".status.json.1.part", config.run_dir / ".supervisor.json.2.part"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    RunFolder(config.run_dir).begin_attempt(config, world_size=1)
    assert not old.exists() and new.exists()


def test_the_wandb_id_is_made_once(tmp_path: Path) -> None:
    first = read_or_create_wandb_id(tmp_path)
    assert first == read_or_create_wandb_id(tmp_path) != ""


def test_the_status_is_replaced_atomically(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_heartbeat(state="running", step=1)
    folder.write_heartbeat(state="running", step=2)  # Not written within a second.
    assert json.loads((tmp_path / "status.json").read_text())["step"] == 1
    folder.write_status(state="finished", step=2)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["step"]) == ("finished", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff"])
def test_a_damaged_wandb_id_is_replaced_with_a_warning(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "wandb_id").write_bytes(content)
    new = read_or_create_wandb_id(folder.path)
    assert len(new) == 8
    assert str(tmp_path / "wandb_id") in caplog.text
    assert read_or_create_wandb_id(folder.path) == new


def test_a_folder_in_place_of_the_wandb_id_does_not_stop_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "wandb_id").mkdir()
    assert len(read_or_create_wandb_id(tmp_path)) == 8
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("source", ["/dev/stdin", "/proc/self/fd/63", "fifo"])
def test_a_pipe_that_several_ranks_would_read_is_refused(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    with pytest.raises(ConfigError, match=f"{source}: a pipe can be read once, and 2 ranks"):
        resolve_run([source, "seed=1"], readers=2)


def test_a_run_folder_that_was_removed_is_not_made_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(FileNotFoundError):
        folder.write_status(state="running")
    assert not folder.path.exists()
