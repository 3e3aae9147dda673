"""Dependent jobs are submitted all together or not at all."""

import os
from pathlib import Path

import pytest

from launcher.slurm.client import SlurmError
from launcher.slurm.dependent_jobs import DependentJob, submit_in_order

SBATCH = """#!/bin/bash
echo "$@" >> calls
count=$(wc -l < calls)
[ "$count" -lt "$FAILS_AT" ] || { echo "sbatch: error: Invalid qos specification" >&2; exit 1; }
echo "10$count"
"""


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[DependentJob]:
    """Three scripts, and an sbatch and scancel that note their arguments."""
    for name, text in {"sbatch": SBATCH, "scancel": "#!/bin/bash\necho $@ >> cancelled"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in "abc":
        (tmp_path / f"{name}.sh").write_text("#!/bin/bash\n")
    needs = {"a": "ended", "b": "ended", "c": "succeeded"}
    return [DependentJob(tmp_path / f"{name}.sh", need) for name, need in needs.items()]  # type: ignore[arg-type]


def test_each_job_waits_for_the_one_before(
    links: list[DependentJob], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FAILS_AT", "9")
    noted: list[tuple[int, str]] = []
    submit_in_order(links, on_submit=lambda position, job: noted.append((position, job)))
    assert noted == [(0, "101"), (1, "102"), (2, "103")]
    assert Path("calls").read_text().splitlines() == [
        f"--parsable {tmp_path}/a.sh",
        f"--parsable --dependency=afterany:101 {tmp_path}/b.sh",
        f"--parsable --dependency=afterok:102 --kill-on-invalid-dep=yes {tmp_path}/c.sh",
    ]


def test_the_jobs_before_one_that_is_refused_are_cancelled(
    links: list[DependentJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS_AT", "3")
    with pytest.raises(SlurmError, match="Invalid qos specification: set qos"):
        submit_in_order(links, on_submit=lambda *_: None)
    assert Path("cancelled").read_text().split() == ["102", "101"]


def test_an_interrupt_between_two_submissions_cancels_the_first(
    links: list[DependentJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS_AT", "9")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        submit_in_order(links, on_submit=interrupt)
    assert Path("cancelled").read_text().split() == ["101"]


def test_a_job_that_cannot_be_cancelled_is_named(
    links: list[DependentJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS_AT", "2")
    Path("scancel").write_text("#!/bin/bash\necho Unable to contact slurm controller >&2; exit 1")
    with pytest.raises(SlurmError, match=r"could not be cancelled: scancel 101$"):
        submit_in_order(links, on_submit=lambda *_: None)
