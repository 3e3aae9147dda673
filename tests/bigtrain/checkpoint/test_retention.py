"""Retention removes old checkpoints, and keeps complete ones."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtrain.checkpoint.commit import commit
from bigtrain.checkpoint.retention import remove_old, steps_to_remove
from bigtrain.checkpoint.schema import (
    COMMIT_FILE,
    SCHEMA,
    STATE_FILE,
    TENSORS_FILE,
    TOKENIZER_FILE,
    CheckpointError,
    TrainState,
    read_state,
    write_json,
    write_state,
)
from bigtrain.checkpoint.step_folders import committed_folders, new_folder, step_of
from bigtrain.checkpoint.storage_folder import DiskFolder, Folder
from bigtrain.config.sections import CheckpointConfig


def make_checkpoint(checkpoints: Folder, step: int) -> Path:
    """Commits a checkpoint without tensors; returns its folder."""
    folder = new_folder(checkpoints, step, attempt=1)
    folder.make()
    write_json(folder, TENSORS_FILE, {"schema": SCHEMA, "tensors": {}})
    state = TrainState(
        step=step,
        samples=8 * step,
        tokens=256 * step,
        optimizer_steps=step,
        data_stages=[],
        config={},
        tokenizer_sha256="",
    )
    write_state(folder, state)
    folder.write(TOKENIZER_FILE, b"")
    return Path(str(commit(folder, {}, parent=checkpoints)))


def _steps(checkpoints: Folder) -> list[int]:
    return sorted(step_of(folder) for folder in committed_folders(checkpoints))


@pytest.fixture
def checkpoints(tmp_path: Path) -> DiskFolder:
    """A folder with checkpoints of steps 2, 4, … 10."""
    folder = DiskFolder(tmp_path)
    for step in range(2, 11, 2):
        make_checkpoint(folder, step)
    return folder


@pytest.mark.parametrize(
    ("steps", "keep_last", "keep_every", "removed"),
    [
        ([], 1, None, []),
        ([5], 1, None, []),
        ([1, 2, 3], None, None, []),
        ([1, 2, 3], 1, None, [1, 2]),
        ([3, 1, 2], 2, None, [1]),
        ([1, 2, 3], 5, None, []),
        ([10, 20, 30, 40, 50], 2, 20, [10, 30]),
        ([10, 20, 30, 40, 50], 1, 1, []),
        ([7, 7, 8], 1, None, [7]),
    ],
)
def test_steps_to_remove(
    steps: list[int], keep_last: int | None, keep_every: int | None, removed: list[int]
) -> None:
    assert steps_to_remove(steps, keep_last=keep_last, keep_every=keep_every) == removed


@pytest.mark.parametrize(
    ("needed_before", "removed"),
    [(45, [10, 20, 30]), (40, [10, 20, 40]), (51, [10, 20, 30, 40]), (9, [10, 20, 30, 40])],
)
def test_the_newest_checkpoint_before_a_step_is_kept(
    needed_before: int, removed: list[int]
) -> None:
    steps = [10, 20, 30, 40, 50]
    found = steps_to_remove(steps, keep_last=1, keep_every=None, needed_before=needed_before)
    assert found == removed


@given(
    steps=st.lists(st.integers(1, 10**9), max_size=40),
    keep_last=st.none() | st.integers(1, 50),
    keep_every=st.none() | st.integers(1, 100),
)
def test_the_newest_and_the_multiples_are_kept(
    steps: list[int], keep_last: int | None, keep_every: int | None
) -> None:
    removed = steps_to_remove(steps, keep_last=keep_last, keep_every=keep_every)
    kept = set(steps) - set(removed)
    assert set(removed) <= set(steps)
    assert removed == sorted(set(removed))
    assert set(sorted(set(steps))[-(keep_last or len(steps)) :]) <= kept
    assert kept or not steps
    if keep_every is not None:
        assert not [step for step in removed if step % keep_every == 0]
    # No other checkpoints stay.
    if keep_last is not None:
        reasons = [s for s in kept if keep_every is not None and s % keep_every == 0]
        assert len(kept - set(reasons)) <= keep_last


def test_older_checkpoints_are_removed_completely(checkpoints: DiskFolder) -> None:
    removed = remove_old(checkpoints, CheckpointConfig(keep_last=1, keep_every=4), saved=10)
    assert sorted(map(step_of, removed)) == [2, 6]
    assert checkpoints.names() == ["step-00000004", "step-00000008", "step-00000010"]


def test_one_checkpoint_from_before_the_skipped_updates_stays(checkpoints: DiskFolder) -> None:
    state = replace(read_state(checkpoints.child("step-00000010")), guard={"skipped_in_a_row": 3})
    assert state.first_skipped == 8
    assert replace(state, guard={"skipped_in_a_row": 0}).first_skipped is None
    remove_old(
        checkpoints, CheckpointConfig(keep_last=1), saved=10, first_skipped=state.first_skipped
    )
    assert _steps(checkpoints) == [6, 10]
    remove_old(checkpoints, CheckpointConfig(keep_last=1), saved=10)
    assert _steps(checkpoints) == [10]


@pytest.mark.parametrize("damage", [COMMIT_FILE, STATE_FILE, TENSORS_FILE])
def test_nothing_is_removed_while_the_newest_is_damaged(
    damage: str, checkpoints: DiskFolder, caplog: pytest.LogCaptureFixture
) -> None:
    (checkpoints.path / "step-00000010" / damage).write_bytes(b"{}")
    assert remove_old(checkpoints, CheckpointConfig(keep_last=1), saved=10) == []
    assert _steps(checkpoints) == [2, 4, 6, 8, 10]
    assert f"older checkpoints are not removed: {checkpoints}/step-00000010/{damage}" in caplog.text


def test_an_uncommitted_checkpoint_is_not_counted(checkpoints: DiskFolder) -> None:
    (checkpoints.path / "step-00000010" / COMMIT_FILE).unlink()
    remove_old(checkpoints, CheckpointConfig(keep_last=1), saved=8)
    assert _steps(checkpoints) == [8]
    assert "step-00000010" in checkpoints.names()


def test_the_last_saved_checkpoint_stays_if_others_have_later_steps(
    checkpoints: DiskFolder,
) -> None:
    remove_old(checkpoints, CheckpointConfig(keep_last=1), saved=6)
    assert _steps(checkpoints) == [6, 8, 10]


def test_nothing_is_removed_if_the_saved_checkpoint_is_missing(checkpoints: DiskFolder) -> None:
    assert remove_old(checkpoints, CheckpointConfig(keep_last=1), saved=12) == []
    assert _steps(checkpoints) == [2, 4, 6, 8, 10]


def test_a_failed_removal_is_logged_and_the_others_are_removed(
    checkpoints: DiskFolder, caplog: pytest.LogCaptureFixture
) -> None:
    # A file has the name to which the checkpoint of step 4 must be renamed.
    (checkpoints.path / "step-00000004.tmp-removed").touch()
    left = checkpoints.path / "step-00000001.tmp-removed"
    left.mkdir()
    with caplog.at_level(logging.WARNING):
        removed = remove_old(checkpoints, CheckpointConfig(keep_last=2), saved=10)
    assert sorted(map(step_of, removed)) == [2, 6]
    assert _steps(checkpoints) == [4, 8, 10]
    assert "step-00000004 was not removed: " in caplog.text
    assert not left.exists()  # An earlier, incomplete removal is finished.


def test_a_checkpoint_with_a_file_of_the_wrong_size_is_not_committed(tmp_path: Path) -> None:
    checkpoints = DiskFolder(tmp_path)
    folder = DiskFolder(make_checkpoint(checkpoints, 2))
    folder.remove_file(COMMIT_FILE)
    folder.write("rank-00000.bin", b"1234")
    for size in (5, 0):
        with pytest.raises(CheckpointError, match=f"has 4 bytes, its rank wrote {size}"):
            commit(folder, {"rank-00000.bin": size}, parent=checkpoints)
    assert folder.size(COMMIT_FILE) is None
    with pytest.raises(CheckpointError, match="has None bytes"):
        commit(folder, {"rank-00001.bin": 4}, parent=checkpoints)
