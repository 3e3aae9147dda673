"""A failed save is reported in one line, training continues, and no checkpoint is lost."""

import json
import math
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bigtrain.checkpoint.schema import KINDS
from bigtrain.checkpoint.storage_folder import DiskFolder, FolderError
from bigtrain.config import RunConfig
from bigtrain.runs.resume_checks import check_run
from tests.distributed.faulty_saves import (
    SmallDisk,
    checkpoint_of,
    read_all,
    save_while_rank_1_cannot_write,
    save_with_failures,
    small_config,
    steps_of,
    train_and_collect_log,
    train_on_disk_turning_read_only,
    train_on_filling_disk,
    train_with_slow_copy,
)
from tests.distributed.test_guard_skips import Fault, train_with_faults
from tests.distributed.test_launch import Launched
from tests.ranks import RankError, run_ranks
from tests.runs import hash_tensors, modification_times, train_rank


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A small disk, unmounted after the test."""
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    if os.path.ismount(disk.folder):
        subprocess.run(["umount", "-l", str(disk.folder)], check=True)


def _disk_config(corpus: Path, runs: Path, disk: SmallDisk, **checkpoint: Any) -> RunConfig:
    every = {"every": 2, "dir": str(disk.folder), **checkpoint}
    return small_config(corpus, runs, train={"steps": 6}, checkpoint=every)


def _checkpoints_on(disk: SmallDisk) -> list[str]:
    return sorted(path.name for path in (disk.folder / "tiny").iterdir())


def test_a_full_disk_is_detected_before_a_save_and_a_missing_last_save_is_an_error(
    disk: SmallDisk, corpus: Path, tmp_path: Path
) -> None:
    disk.mount("size=2m")
    config = _disk_config(corpus, tmp_path, disk)
    outcome, lines = run_ranks(train_and_collect_log, 1, config)[0]
    refused = [line for line in lines if "not saved" in line]
    assert len(refused) == 1
    folder = f"{disk.folder}/tiny/step-00000004"
    assert refused[0].startswith(f"{folder}: not saved: it needs 0.00")
    assert "GB are free; make room, or keep fewer checkpoints" in refused[0]
    assert "training continues" in refused[0]
    # The run continued to its last step, which could not be saved.
    assert outcome.startswith(f"SaveError: {disk.folder}/tiny/step-00000006: not saved: it needs")
    assert steps_of(config) == [1, 2, 3, 4, 5, 6]
    status = json.loads((config.run_dir / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["last_checkpoint"].endswith("step-00000002")
    assert _checkpoints_on(disk) == ["step-00000002"]
    read_all(DiskFolder(disk.folder / "tiny/step-00000002"))

    disk.mount("size=16m,remount")
    outcome, lines = run_ranks(train_and_collect_log, 1, config)[0]
    assert outcome == "finished"
    assert _checkpoints_on(disk) == ["step-00000002", "step-00000004", "step-00000006"]


def test_a_completed_save_is_reported_even_if_the_last_one_fails(
    disk: SmallDisk, corpus: Path, tmp_path: Path
) -> None:
    disk.mount("size=2m")
    config = _disk_config(corpus, tmp_path, disk, every=5)
    outcome, lines = run_ranks(train_and_collect_log, 1, config)[0]
    assert f"{disk.folder}/tiny/step-00000006: not saved: it needs" in outcome
    assert any(line.startswith(f"saved {disk.folder}/tiny/step-00000005: ") for line in lines)
    status = json.loads((config.run_dir / "status.json").read_text())
    assert status["last_checkpoint"] == f"{disk.folder}/tiny/step-00000005"


def test_a_disk_that_fills_during_a_save_does_not_end_the_run_and_no_partial_files_remain(
    disk: SmallDisk, corpus: Path, tmp_path: Path
) -> None:
    disk.mount("size=8m")
    config = _disk_config(corpus, tmp_path, disk)
    outcome, lines = run_ranks(train_on_filling_disk, 1, config, disk.folder)[0]
    assert outcome == "finished"
    [message] = [line for line in lines if "not saved" in line]
    assert message.startswith(f"{disk.folder}/tiny/step-00000004: not saved: rank 0: ")
    assert "No space left on device; make room" in message
    assert _checkpoints_on(disk) == ["step-00000002", "step-00000006"]
    for name in _checkpoints_on(disk):
        read_all(DiskFolder(disk.folder / "tiny" / name))


def test_a_failed_save_ends_the_run_if_on_error_is_stop(
    disk: SmallDisk, corpus: Path, tmp_path: Path
) -> None:
    disk.mount("size=1m")
    config = _disk_config(corpus, tmp_path, disk, on_error="stop")
    exit_code, output = Launched(config, tmp_path).end()
    assert exit_code == 1, output
    assert "Traceback" not in output
    [line] = [line for line in output.splitlines() if "not saved" in line]
    assert f"{disk.folder}/tiny/step-00000002: not saved: it needs" in line
    assert steps_of(config) == [1, 2]


def test_a_folder_that_cannot_be_written_to_is_refused_before_a_rank_starts(
    disk: SmallDisk, corpus: Path, tmp_path: Path
) -> None:
    disk.mount("size=16m")
    config = _disk_config(corpus, tmp_path, disk)
    run_ranks(train_rank, 1, config)
    before = modification_times(disk.folder)
    disk.mount("remount,ro")
    with pytest.raises(FolderError, match="cannot be written to; give another place"):
        check_run(config)
    assert modification_times(disk.folder) == before


def test_a_disk_that_turns_read_only_is_reported_and_the_run_resumes_from_its_checkpoint(
    disk: SmallDisk, corpus: Path, tmp_path: Path
) -> None:
    disk.mount("size=16m")
    config = _disk_config(corpus, tmp_path, disk)
    outcome, lines = run_ranks(train_on_disk_turning_read_only, 1, config, disk)[0]
    remedy = (
        r"Read-only file system.*; "
        r"check that the folder exists and is writable, or set checkpoint\.dir"
    )
    [message] = [line for line in lines if "not saved" in line]
    assert re.match(rf"{disk.folder}/tiny/step-00000004: not saved: .*{remedy}; training", message)
    # The run continued to its last step, which could not be saved.
    assert re.match(rf"SaveError: {disk.folder}/tiny/step-00000006: not saved: .*{remedy}", outcome)
    assert steps_of(config) == [1, 2, 3, 4, 5, 6]
    disk.mount("remount,rw")
    outcome, lines = run_ranks(train_and_collect_log, 1, config)[0]
    assert outcome == "finished"
    assert f"resumed from {disk.folder}/tiny/step-00000002, at step 2" in lines
    assert _checkpoints_on(disk) == ["step-00000002", "step-00000004", "step-00000006"]


def test_a_rank_that_cannot_write_is_named_on_all_ranks_at_the_next_step(tmp_path: Path) -> None:
    answers = run_ranks(save_while_rank_1_cannot_write, 2, tmp_path)
    assert answers[0] == answers[1]
    failed, names, saved = answers[0]
    assert failed.startswith(f"{tmp_path}/step-00000001: not saved: rank 1: ")
    assert "File too large" in failed
    assert names == []
    assert saved is None
    read_all(DiskFolder(tmp_path / "step-00000002"))


def test_a_committed_checkpoint_survives_later_failures(tmp_path: Path) -> None:
    run_ranks(save_with_failures, 1, tmp_path)


def test_an_update_waits_until_the_tensors_it_changes_are_copied(
    corpus: Path, tmp_path: Path
) -> None:
    steps = {"train": {"steps": 6}}
    slow = small_config(corpus, tmp_path, name="slow", **steps)
    run_ranks(train_with_slow_copy, 1, slow)
    checkpoint = {"asynchronous": False, "every": 4}
    sound = small_config(corpus, tmp_path, name="sound", checkpoint=checkpoint, **steps)
    run_ranks(train_rank, 1, sound)
    bits = [hash_tensors(checkpoint_of(run, 4), KINDS) for run in (slow, sound)]
    assert bits[0] == bits[1]


def test_a_run_that_diverges_during_a_save_waits_for_it_and_records_the_checkpoint(
    corpus: Path, tmp_path: Path
) -> None:
    guard = {"window": 16, "stop_after": 2}
    config = small_config(corpus, tmp_path, guard=guard, checkpoint={"every": 1})
    with pytest.raises(RankError, match=r"DivergedError: step 7: .*--to 5 "):
        run_ranks(train_with_faults, 1, config, [Fault(40, 24, math.inf)])
    status = json.loads((config.run_dir / "status.json").read_text())
    assert status["last_checkpoint"] == str(checkpoint_of(config, 6))
    read_all(DiskFolder(checkpoint_of(config, 6)))
