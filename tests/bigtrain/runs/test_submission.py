"""The files of a submission: all are written, or everything is as it was before."""

import threading
from pathlib import Path

import pytest

from bigtrain.runs.run_lock import RunBusyError
from bigtrain.runs.submission import submission_files, submission_lock
from bigtrain.runs.wandb_id import read_or_create_wandb_id


def contents(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_text() for file in files}


def submit(run_dir: Path, *, fails: bool = False, keeps: bool = False) -> None:
    with (
        submission_lock(run_dir),
        submission_files(run_dir, {"job.json": "new", "job.sh": "new"}, folders=("logs",)) as files,
    ):
        files.kept = keeps
        if fails:
            raise ValueError("sbatch failed")


def test_a_submission_writes_its_files_and_makes_one_wandb_id(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "a"
    submit(run_dir)
    files = contents(run_dir)
    assert (files["job.json"], files["job.sh"]) == ("new", "new")
    assert (run_dir / "logs").is_dir()
    submit(run_dir)
    assert read_or_create_wandb_id(run_dir) == files["wandb_id"].strip()


def test_a_failed_submission_of_a_new_run_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sbatch failed"):
        submit(tmp_path / "runs" / "a", fails=True)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_submission_puts_the_files_of_the_earlier_one_back(tmp_path: Path) -> None:
    run_dir = tmp_path / "a"
    (run_dir / "logs").mkdir(parents=True)
    for name, text in {"job.json": "old", "logs/x": "log", "wandb_id": "abc\n"}.items():
        (run_dir / name).write_text(text)
    before = contents(run_dir)
    with pytest.raises(ValueError, match="sbatch failed"):
        submit(run_dir, fails=True)
    assert contents(run_dir) == before


def test_files_are_kept_if_the_job_may_have_been_submitted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sbatch failed"):
        submit(tmp_path / "a", fails=True, keeps=True)
    assert contents(tmp_path / "a")["job.json"] == "new"


def test_two_processes_do_not_submit_a_run_at_the_same_time(tmp_path: Path) -> None:
    run_dir = tmp_path / "a"
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with submission_lock(run_dir):
            inside.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert inside.wait(10)
    with pytest.raises(RunBusyError, match="another process submits this run now"):
        submit(run_dir)
    leave.set()
    holder.join()
    submit(run_dir)
