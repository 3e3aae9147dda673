"""What squeue says about the jobs of a run, in words."""

from dataclasses import replace

import pytest

from launcher.slurm.client import QueuedJob
from launcher.slurm.queue import (
    QueueAnswer,
    ask_queue,
    explain_reason,
    is_held,
    seconds_of_limit,
    seconds_to_limit,
    start_time,
)
from tests.bigtrain.commands import fake_slurm

JOB = QueuedJob(
    *("6", "RUNNING", "", "big one", "root", "main", 2, "n[1-2]"),
    *("0:02", "1:00:00", "59:58", "2026-11-29T10:23:17", "2026-11-29T10:23:16", "/runs/x/job.sh"),
)


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> fake_slurm.FakeSlurm:
    return fake_slurm.FakeSlurm(tmp_path, monkeypatch)


def test_jobs_are_listed_in_the_order_of_their_submission(slurm: fake_slurm.FakeSlurm) -> None:
    slurm.answer(fake_slurm.DEPENDENCY, fake_slurm.RUNNING, fake_slurm.CANCELLED)
    answer = ask_queue(["6", "9"])
    assert [job.job for job in answer.jobs] == ["6", "6", "9"]
    assert [job.job for job in answer.running] == ["6"]
    assert [job.job for job in answer.waiting] == ["9"]
    assert answer.problem is None
    assert answer.running[0].name == "big one"


def test_a_job_that_slurm_has_forgotten_is_no_problem(slurm: fake_slurm.FakeSlurm) -> None:
    slurm.answer()
    assert ask_queue(["6"]) == QueueAnswer()
    assert ask_queue([]) == QueueAnswer()


def test_a_controller_that_is_down_is_said_in_one_line(slurm: fake_slurm.FakeSlurm) -> None:
    slurm.fail(fake_slurm.DOWN)
    problem = ask_queue(["6"]).problem
    assert problem is not None
    assert "controller does not answer" in problem
    assert "\n" not in problem


def test_reasons_are_explained() -> None:
    assert explain_reason("Priority") == "Priority: jobs with a higher priority come first"
    assert "held" in explain_reason("job requeued in held state")
    assert "nodes that it needs" in explain_reason("ReqNodeNotAvail, UnavailableNodes:n3")
    assert "limit of the account or QOS" in explain_reason("QOSMaxGRESPerUser")
    assert explain_reason("SomethingNew") == "SomethingNew"


def test_held_jobs_are_recognized() -> None:
    waiting = replace(JOB, state="PENDING")
    for reason in ("JobHeldUser", "JobHeldAdmin", "job requeued in held state"):
        assert is_held(replace(waiting, reason=reason))
    assert is_held(replace(waiting, state="SPECIAL_EXIT"))
    assert not is_held(replace(waiting, reason="Resources"))


def test_times_of_a_job_are_seconds() -> None:
    assert (seconds_to_limit(JOB), seconds_of_limit(JOB)) == (3598, 3600)
    assert seconds_to_limit(replace(JOB, time_left="0:00")) == 0
    assert seconds_to_limit(replace(JOB, time_left="UNLIMITED")) is None
    assert seconds_to_limit(replace(JOB, time_left="")) is None
    assert start_time(replace(JOB, start="")) is None
    begin = start_time(JOB)
    later = start_time(replace(JOB, start="2026-11-29T11:23:17"))
    assert begin is not None
    assert later == begin + 3600
