"""`checkpoint prune` deletes what the policy does not keep, never the last complete checkpoint."""

from pathlib import Path

import fsspec
import pytest

from bigtrain.checkpoint.retention import set_aside
from bigtrain.checkpoint.storage_folder import DiskFolder, open_folder
from bigtrain.runs.run_folder import RunFolder
from tests.bigtrain.commands.checkpoint.conftest import Command
from tests.bigtrain.commands.checkpoint.damage import flip_bit


def _left(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def _policy(run: Path, keep_last: int, keep_every: int | None = None) -> None:
    file = run / "config.yaml"
    text = file.read_text().replace("keep_last: null", f"keep_last: {keep_last}")
    if keep_every is not None:
        text = text.replace("keep_every: null", f"keep_every: {keep_every}")
    file.write_text(text)


ALL = ["step-00000002", "step-00000004", "step-00000006"]


def test_a_dry_run_lists_what_would_be_deleted_and_deletes_nothing(
    run: Path, command: Command
) -> None:
    exit_code, lines = command("prune", run, "--keep-last", 1, "--dry-run")
    assert exit_code == 0
    folders = [run / "checkpoints" / name for name in ALL[:2]]
    sizes = [sum(file.stat().st_size for file in folder.iterdir()) for folder in folders]
    assert lines == [
        *(
            f"would remove {folder} ({size / 1000:.3g} kB)"
            for folder, size in zip(folders, sizes, strict=True)
        ),
        f"would free {sum(sizes) / 1e6:.3g} MB; 1 checkpoint is kept, the newest is step-00000006",
    ]
    assert _left(run) == ALL


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--keep-last", 1], ALL[2:]),
        (["--keep-last", 1, "--keep-every", 4], ALL[1:]),
        (["--keep-last", 3], ALL),
    ],
)
def test_checkpoints_that_the_policy_does_not_keep_are_deleted(
    words: list[object], left: list[str], run: Path, command: Command
) -> None:
    exit_code, lines = command("prune", run, *words)
    assert exit_code == 0
    assert _left(run) == left
    assert [line.split()[0] for line in lines] == ["removed"] * (3 - len(left)) + ["freed"]
    assert command("verify", run, "--all")[0] == 0


def test_missing_options_default_to_the_runs_config(run: Path, command: Command) -> None:
    exit_code, [line] = command("prune", run)
    assert exit_code == 2
    assert "give --keep-last N" in line
    _policy(run, keep_last=2)
    assert command("prune", run / "checkpoints")[0] == 0
    assert _left(run) == ALL[1:]
    _policy(run, keep_last=2, keep_every=4)
    assert command("prune", run, "--keep-last", 1)[0] == 0
    assert _left(run) == ALL[1:]


@pytest.mark.parametrize("file", ["rank-00000.bin", "state.json"])
def test_nothing_is_deleted_if_the_newest_has_a_flipped_bit(
    file: str, run: Path, command: Command
) -> None:
    flip_bit(run / "checkpoints" / ALL[2] / file, 100)
    set_aside(DiskFolder(run / "checkpoints" / ALL[0]), "bad-1")
    before = _left(run)
    exit_code, [line] = command("prune", run, "--keep-last", 1, "--set-aside")
    assert exit_code == 2
    assert "nothing is removed, because the newest checkpoint is not complete" in line
    assert file in line
    assert _left(run) == before


def test_a_run_that_is_being_trained_is_not_pruned(run: Path, command: Command) -> None:
    training = RunFolder(run)
    training.lock()
    exit_code, [line] = command("prune", run, "--keep-last", 1)
    assert exit_code == 2
    assert "is training this run" in line
    assert _left(run) == ALL


def test_checkpoints_set_aside_are_deleted_only_on_request(run: Path, command: Command) -> None:
    checkpoints = run / "checkpoints"
    set_aside(DiskFolder(checkpoints / ALL[0]), "bad-1")
    set_aside(DiskFolder(checkpoints / ALL[1]), "rewound-1")
    aside = [f"{ALL[0]}.bad-1", f"{ALL[1]}.rewound-1"]
    assert command("prune", run, "--keep-last", 1)[0] == 0
    assert _left(run) == [*aside, ALL[2]]
    exit_code, lines = command("prune", run, "--set-aside")
    assert exit_code == 0
    assert [line.split()[1].rpartition("/")[2] for line in lines[:2]] == aside
    assert _left(run) == ALL[2:]


def test_checkpoints_set_aside_stay_if_there_are_no_others(run: Path, command: Command) -> None:
    for name in ALL:
        set_aside(DiskFolder(run / "checkpoints" / name), "bad-1")
    before = _left(run)
    exit_code, [line] = command("prune", run, "--set-aside")
    assert exit_code == 2
    assert "every checkpoint was set aside" in line
    assert _left(run) == before


def test_checkpoints_behind_a_url_are_pruned_too(run: Path, command: Command) -> None:
    url, store = f"memory://{run.parent.name}", fsspec.filesystem("memory")
    for name in ALL:
        source = run / "checkpoints" / name
        store.put(str(source), f"{url}/tiny/{name}.try-1", recursive=True)
    set_aside(open_folder(f"{url}/tiny/{ALL[1]}.try-1"), "bad-2")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("  dir: null", f"  dir: {url}"))
    assert command("prune", run, "--keep-last", 1)[0] == 0
    left = open_folder(f"{url}/tiny")
    assert left.names() == [f"{name}.try-1" for name in ALL[1:]]
    assert command("prune", run, "--set-aside")[0] == 0
    assert left.names() == [f"{ALL[2]}.try-1"]
    assert _left(run) == ALL


def test_a_folder_left_by_a_killed_removal_is_no_obstacle(run: Path, command: Command) -> None:
    left = run / "checkpoints" / f"{ALL[0]}.tmp-removed"
    left.mkdir()
    (left / "rank-00000.bin").write_bytes(b"half")
    assert command("prune", run, "--keep-last", 2)[0] == 0
    assert _left(run) == ALL[1:]


def test_a_checkpoint_that_cannot_be_removed_is_named(
    run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: DiskFolder, name: str) -> DiskFolder:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(DiskFolder, "rename", refuse)
    exit_code, lines = command("prune", run, "--keep-last", 2)
    assert exit_code == 1
    assert lines[0].endswith("step-00000002 was not removed: Permission denied")
    assert _left(run) == ALL
