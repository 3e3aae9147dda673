"""The jobs of a run are found by id and by script; a chain has one successor."""

from pathlib import Path

import pytest

from launcher.excluded_nodes import remember_excluded
from launcher.slurm.submit import cancel_successors, find_active_jobs, submit_successor
from tests.launcher.slurm.fake_slurm import FakeSlurm, queue_line


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "a b"
    folder.mkdir(parents=True)
    (folder / "job.sh").write_text("#!/bin/bash\n#SBATCH --exclude=n7,n3\ntrue\n")
    return folder


def test_a_job_is_found_by_its_script_even_if_nobody_noted_its_id(
    slurm: FakeSlurm, run_dir: Path
) -> None:
    script = str(run_dir / "job.sh")
    lines = (
        queue_line("12", "PENDING", script=script),
        queue_line("9", "RUNNING", script=script),
        queue_line("8", "COMPLETED", script=script),
        queue_line("10", "RUNNING", script=f"{script}.old"),
    )
    slurm.answer("squeue", "", "".join(lines))
    slurm.answer("squeue", "--jobs=5,6", queue_line("5", "RUNNING", script="/elsewhere"))
    assert [job.job for job in find_active_jobs(run_dir)] == ["9", "12"]
    assert [job.job for job in find_active_jobs(run_dir, known=["5", "6"])] == ["5", "9", "12"]


def test_a_successor_waits_for_the_end_of_its_job_and_avoids_bad_nodes(
    slurm: FakeSlurm, run_dir: Path
) -> None:
    slurm.answer("squeue", "", queue_line("9", "RUNNING", script=str(run_dir / "job.sh")))
    assert submit_successor(run_dir, "9") == "1234"
    slurm.answer("scontrol", "show hostnames", "n7\nn3\n")
    remember_excluded(run_dir.parent, ["n4", "n3"], reason="slow", run="other")
    submit_successor(run_dir, "9")
    first, second = (words for words, _ in slurm.calls("sbatch"))
    script = str(run_dir / "job.sh")
    assert first == ["--parsable", "--dependency=afterany:9", script]
    assert second == [
        *("--parsable", "--dependency=afterany:9", "--exclude=n7,n3,n4"),
        script,
    ]


def test_a_job_has_only_one_successor_which_can_be_cancelled(
    slurm: FakeSlurm, run_dir: Path
) -> None:
    script = str(run_dir / "job.sh")
    lines = queue_line("9", "RUNNING", script=script) + queue_line("10", "PENDING", script=script)
    slurm.answer("squeue", "", lines)
    assert submit_successor(run_dir, "9") == "10"
    assert slurm.calls("sbatch") == []
    assert cancel_successors(run_dir, "9") == ["10"]
    assert [words for words, _ in slurm.calls("scancel")] == [["10"]]
