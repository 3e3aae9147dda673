"""What an agent does about its job when the supervisor's node is lost."""

import asyncio
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from launcher.slurm import abandoned_job, client
from launcher.slurm.abandoned_job import AbandonedJob
from launcher.slurm.errors import JobUnknownError, SlurmError, SlurmUnavailableError

Calls = list[str]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What is asked of SLURM, which says that the job runs. No time passes."""
    made: Calls = []
    for name in ("SILENT_SECONDS", "POLL_SECONDS", "RETRY_SECONDS", "STAGGER_SECONDS"):
        monkeypatch.setattr(abandoned_job, name, 0.01)
    monkeypatch.setattr(client, "show_job", lambda job: {"JobState": "RUNNING"})
    monkeypatch.setattr(client, "requeue_job", lambda job: made.append(f"requeue {job}"))
    monkeypatch.setattr(client, "cancel_job", lambda job: made.append(f"cancel {job}"))
    return made


def _give_up(report: Path, restart: str = "requeue") -> str:
    return asyncio.run(AbandonedJob("7", restart, report, node_index=1).requeue_or_cancel())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("restart", "call"), [("requeue", "requeue 7"), ("chain", "cancel 7"), ("none", "cancel 7")]
)
def test_a_job_without_a_supervisor_is_queued_again_or_ended(
    calls: Calls, tmp_path: Path, restart: str, call: str
) -> None:
    (tmp_path / "supervisor.json").write_text("the last report")
    assert "its first node is lost" in _give_up(tmp_path / "supervisor.json", restart)
    assert calls == [call]


def test_a_job_whose_supervisor_still_writes_reports_is_left_alone(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: Iterator[int] = count()
    monkeypatch.setattr(AbandonedJob, "_read_report", lambda _: f"report {next(numbers)}".encode())
    assert "supervisor lives" in _give_up(tmp_path / "supervisor.json")
    assert calls == []


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING", "REQUEUED", "FAILED"])
def test_a_job_that_slurm_ends_or_that_was_cancelled_is_not_queued_again(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr(client, "show_job", lambda job: {"JobState": state})
    assert state in _give_up(tmp_path / "supervisor.json")
    assert calls == []


def test_slurm_is_asked_again_while_its_controller_is_down(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[object] = [SlurmUnavailableError("down"), {"JobState": "RUNNING"}]

    def show_job(job: str) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(client, "show_job", show_job)
    _give_up(tmp_path / "supervisor.json")
    assert calls == ["requeue 7"]


def test_the_second_agent_that_asks_is_refused_and_says_so(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(job: str) -> None:
        raise SlurmError("Job is pending execution for job 7")

    monkeypatch.setattr(client, "requeue_job", refuse)
    assert "Job is pending execution" in _give_up(tmp_path / "supervisor.json")


def test_a_job_that_slurm_no_longer_knows_is_left_alone(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def show_job(job: str) -> None:
        raise JobUnknownError("Invalid job id specified")

    monkeypatch.setattr(client, "show_job", show_job)
    assert "Invalid job id" in _give_up(tmp_path / "supervisor.json")
    assert calls == []
