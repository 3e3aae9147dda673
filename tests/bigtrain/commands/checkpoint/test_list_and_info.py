"""`checkpoint list` shows a run's checkpoints, `checkpoint info` describes one."""

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import fsspec
import pytest

from bigtrain.checkpoint.retention import set_aside
from bigtrain.checkpoint.storage_folder import DiskFolder
from bigtrain.config import RunConfig, load_run_config
from bigtrain.plan.parameters import count_parameters
from tests.bigtrain.commands.checkpoint.conftest import Command
from tests.bigtrain.commands.checkpoint.damage import change_json, flip_bit

LAYOUT = "2 ranks: tensor=2 pipeline=1 data=1 zero=0"


def _states(lines: list[str]) -> list[tuple[int, str]]:
    """Step and state in each row of a list."""
    column = lines[0].index("state")
    return [(int(line.split()[0]), line[column:]) for line in lines[1:]]


def _info_values(lines: list[str]) -> dict[str, str]:
    """The output of `info` as a dict."""
    rows = (line.strip().partition("  ") for line in lines)
    return {name: value.strip() for name, _, value in rows}


def test_a_list_shows_the_newest_first_with_the_state_of_each(run: Path, command: Command) -> None:
    checkpoints = run / "checkpoints"
    flip_bit(checkpoints / "step-00000006" / "state.json", 200)
    (checkpoints / "step-00000002" / "tokenizer.model").unlink()
    set_aside(DiskFolder(checkpoints / "step-00000002"), "rewound-1")
    (checkpoints / "step-00000008.tmp-2").mkdir()
    (checkpoints / "step-00000005").mkdir()
    (checkpoints / "step-00000001.tmp-removed").mkdir()
    (checkpoints / "latest").symlink_to("step-00000099")
    exit_code, lines = command("list", run)
    assert exit_code == 0
    assert _states(lines) == [
        (8, "not finished: being written by attempt 2, or left by a kill"),
        (6, "cannot be read: state.json was changed after it was committed"),
        (5, "cannot be read: COMMIT.json is missing"),
        (4, "whole"),
        (2, "set aside: rewound-1"),
        (1, "not finished: being deleted, or left by a kill"),
    ]
    row = next(line for line in lines if line.endswith("whole"))
    size = sum(file.stat().st_size for file in (checkpoints / "step-00000004").iterdir())
    assert row.split()[:4] == ["4", "1,024", f"{size / 1000:.3g}", "kB"]
    assert LAYOUT in row
    assert row.startswith("   4   1,024  ")
    # The values in the state file of an incomplete checkpoint are still shown.
    assert lines[-2].split()[1] == "512"


def test_the_json_list_holds_the_same(run: Path, command: Command) -> None:
    exit_code, lines = command("list", run, "--json")
    assert exit_code == 0
    first, *others = json.loads("\n".join(lines))
    assert (first["step"], first["state"], first["tokens"]) == (6, "whole", 1536)
    assert first["layout"] == {"ranks": 2, "tensor": 2, "pipeline": 1, "data": 1, "zero": 0}
    assert first["path"] == str(run / "checkpoints" / "step-00000006")
    assert [other["step"] for other in others] == [4, 2]


def test_in_a_store_the_marker_determines_the_state(run: Path, command: Command) -> None:
    url = f"memory://{run.parent.name}/checkpoints"
    store = fsspec.filesystem("memory")
    for step, attempt in ((2, 1), (4, 1), (6, 1), (6, 2)):
        source = run / "checkpoints" / f"step-{step:08d}"
        store.put(str(source), f"{url}/{source.name}.try-{attempt}", recursive=True)
    store.rm(f"{url}/step-00000006.try-1/COMMIT.json")
    marker = f"{url}/step-00000004.try-1/COMMIT"
    store.mv(f"{marker}.json", f"{marker}.bad-2.json")
    # Killed while it was set aside: with its marker it is still a checkpoint.
    marker = f"{url}/step-00000002.try-1/COMMIT"
    store.cp_file(f"{marker}.json", f"{marker}.bad-2.json")
    exit_code, lines = command("list", url)
    assert exit_code == 0
    assert _states(lines) == [
        (6, "whole"),
        (6, "not finished: being written, or left by a kill"),
        (4, "set aside: bad-2"),
        (2, "whole"),
    ]
    exit_code, lines = command("verify", url, "--all")
    assert exit_code == 0
    assert [line.split(": ")[0].rpartition("/")[2] for line in lines] == [
        "step-00000006.try-2",
        "step-00000002.try-1",
    ]


def test_a_run_without_checkpoints_says_so(run: Path, command: Command) -> None:
    (run / "checkpoints").rename(run / "elsewhere")
    assert command("list", run) == (0, [f"{run}: no checkpoint yet"])
    assert command("list", run, "--json") == (0, ["[]"])
    exit_code, [line] = command("verify", run)
    assert exit_code == 2
    assert line == f"bigtrain: {run}: the run has no checkpoint yet"


def _read_to_the_end(terminal: int) -> str:
    content = b""
    with (
        os.fdopen(terminal, "rb", buffering=0) as file,
        suppress(OSError),
    ):  # A terminal ends with EIO.
        while data := file.read(4096):
            content += data
    return content.decode()


def test_a_terminal_shows_a_table_and_a_progress_bar(run: Path) -> None:
    shown = ""
    for words in (["list"], ["verify"]):
        ours, theirs = pty.openpty()
        line = [sys.executable, "-m", "bigtrain.cli", "checkpoint", *words, str(run)]
        environment = {**os.environ, "COLUMNS": "150", "TERM": "xterm"}
        done = subprocess.run(line, stdout=theirs, stderr=theirs, env=environment, timeout=60)
        os.close(theirs)
        assert done.returncode == 0
        shown += _read_to_the_end(ours)
    assert "┃" in shown
    assert LAYOUT in shown
    assert "verifying step-00000006" in shown
    assert "/s" in shown


def test_info_describes_a_checkpoint(trained_run: RunConfig, run: Path, command: Command) -> None:
    exit_code, lines = command("info", run)
    assert exit_code == 0
    facts = _info_values(lines)
    parameters = count_parameters(trained_run.model)
    assert parameters.padding > 0
    assert facts["model"].startswith(f"gpt, {parameters.total:,} parameters: 2 layers × 32, ")
    assert facts["step"] == "6 of 6 (6 updates)"
    assert facts["trained on"] == "48 samples, 1,536 tokens"
    assert facts["saved in layout"] == "tensor=2 pipeline=1 data=1 zero=0, 2 rank files"
    assert facts["batch"] == "8 samples × 32 tokens, 4 microbatches of 2 a rank"
    assert facts["schema"] == "bigtrain-checkpoint/1"
    assert facts["corpus"].startswith(f"{trained_run.data.train}, fingerprint ")
    assert facts["guard"] == "0 updates skipped, 0 in a row"
    assert facts["wandb"] == (run / "wandb_id").read_text().strip()


def test_json_info_names_every_file(run: Path, command: Command) -> None:
    exit_code, lines = command("info", run / "checkpoints" / "step-00000004", "--json")
    assert exit_code == 0
    facts = json.loads("\n".join(lines))
    assert (facts["step"], facts["samples"], facts["precision"]) == (4, 32, "fp32")
    folder = run / "checkpoints" / "step-00000004"
    files = {file.name: file.stat().st_size for file in folder.iterdir()}
    del files["COMMIT.json"]
    assert facts["files"] == files


def test_the_data_of_a_checkpoint_of_the_first_version_is_shown(
    run: Path, command: Command
) -> None:
    checkpoint = run / "checkpoints" / "step-00000006"
    stage = {"first_sample": 0, "corpus": "old", "fingerprint": "f", "shuffle": "windows"}
    change_json(checkpoint / "state.json", lambda state: state.update(data_stages=[stage]))
    _, lines = command("info", checkpoint)
    assert _info_values(lines)["corpus"] == "old, fingerprint f"


def test_the_config_of_a_checkpoint_can_be_launched_again(
    trained_run: RunConfig, run: Path, tmp_path: Path, command: Command
) -> None:
    exit_code, lines = command("info", run, "--config")
    assert exit_code == 0
    file = tmp_path / "again.yaml"
    file.write_text("\n".join(lines))
    assert load_run_config([str(file)]) == trained_run


def test_info_works_with_a_config_of_another_version(run: Path, command: Command) -> None:
    checkpoint = run / "checkpoints" / "step-00000006"
    change_json(checkpoint / "state.json", lambda state: state["config"].update(key_of_2030=1))
    exit_code, lines = command("info", checkpoint)
    assert exit_code == 0
    assert _info_values(lines)["config"] == "does not fit this version of bigtrain"
    exit_code, [line] = command("info", checkpoint, "--config")
    assert exit_code == 2
    assert "key_of_2030" in line


def _truncate(checkpoint: Path) -> None:
    (checkpoint / "COMMIT.json").write_text('{"files": {')


def _flip(checkpoint: Path) -> None:
    flip_bit(checkpoint / "tensors.json", 77)


def _lose(checkpoint: Path) -> None:
    (checkpoint / "rank-00001.bin").unlink()


def _set_future_schema(checkpoint: Path) -> None:
    text = (checkpoint / "COMMIT.json").read_text()
    (checkpoint / "COMMIT.json").write_text(text.replace("checkpoint/1", "checkpoint/2"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "COMMIT.json cannot be read as JSON"),
        (_flip, "tensors.json was changed after it was committed"),
        (_lose, "rank-00001.bin is missing"),
        (_set_future_schema, "upgrade bigtrain"),
    ],
)
@pytest.mark.parametrize("words", [("info",), ("info", "--config"), ("diff",)], ids=" ".join)
def test_an_unreadable_checkpoint_gives_a_one_line_error(
    words: tuple[str, ...], damage: object, message: str, run: Path, command: Command
) -> None:
    checkpoint = run / "checkpoints" / "step-00000006"
    damage(checkpoint)  # type: ignore[operator]
    places = [checkpoint] if words[0] == "info" else [run / "checkpoints/step-00000004", checkpoint]
    exit_code, lines = command(*words, *places)
    assert exit_code == 2
    assert len(lines) == 1
    assert message in lines[0]
    # For the run folder, the next readable checkpoint is described, and a line says so.
    exit_code, lines = command("info", run)
    assert exit_code == 0
    assert any(line.startswith("skipped step-00000006") for line in lines)
    assert _info_values(lines)["step"] == "4 of 6 (4 updates)"


@pytest.mark.parametrize("words", [("list",), ("verify",), ("info",), ("diff", "."), ("prune",)])
@pytest.mark.parametrize("place", ["nowhere", "a file", "latest", "empty", "nowhere://x"])
def test_a_place_that_is_not_a_checkpoint_gives_a_one_line_error(
    words: tuple[str, ...],
    place: str,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "latest").symlink_to("step-00000012")
    exit_code, lines = command(*words[:1], place, *words[1:])
    assert exit_code == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"bigtrain: {place}: ")
    if place == "latest" and words != ("prune",):
        assert "a link to step-00000012, which is not there" in lines[0]
