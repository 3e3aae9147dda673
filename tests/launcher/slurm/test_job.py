"""What SLURM says about the job of the supervisor: why it is ended, and when."""

import asyncio
import time
from datetime import datetime
from pathlib import Path

import pytest

from launcher.slurm import client
from launcher.slurm.errors import SlurmError, SlurmUnavailableError
from launcher.slurm.job import SlurmJob, find_stop_cause, parse_moment
from launcher.supervisor.values import StopCause

NOW = datetime.fromisoformat("2026-01-05T12:00:00").timestamp()
# As `scontrol show job` of SLURM 22.05 shows a job while it ends, whatever the reason.
ENDING = {
    "JobState": "COMPLETING",
    "Reason": "None",
    "Restarts": "0",
    "TimeLimit": "1-00:00:00",
    "PreemptTime": "None",
    "StartTime": "2026-01-05T08:00:00",
    "EndTime": "2026-01-05T12:00:00",
}


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({}, StopCause.USER),
        ({"JobState": "CANCELLED"}, StopCause.USER),
        ({"JobState": "RUNNING", "EndTime": "2026-01-06T08:00:00"}, StopCause.USER),
        ({"PreemptTime": "2026-01-05T12:00:00"}, StopCause.PREEMPTED),
        ({"JobState": "PREEMPTED"}, StopCause.PREEMPTED),
        ({"Restarts": "1", "EndTime": "Unknown"}, StopCause.PREEMPTED),
        ({"JobState": "NODE_FAIL"}, StopCause.PREEMPTED),
        ({"TimeLimit": "04:00:00"}, StopCause.TIME_LIMIT),
        ({"Reason": "TimeLimit"}, StopCause.TIME_LIMIT),
        ({"JobState": "RUNNING", "TimeLimit": "04:00:30"}, StopCause.TIME_LIMIT),
        ({"TimeLimit": "04:00:30"}, StopCause.USER),
        ({"JobState": "TIMEOUT"}, StopCause.TIME_LIMIT),
        ({"TimeLimit": "UNLIMITED"}, StopCause.USER),
        ({"TimeLimit": "Partition_Limit", "StartTime": "Unknown"}, StopCause.USER),
    ],
)
def test_the_cause_of_a_sigterm(fields: dict[str, str], cause: StopCause) -> None:
    assert find_stop_cause({**ENDING, **fields}, restart_count=0, now=NOW) is cause


def test_a_job_that_was_requeued_before_is_not_taken_for_one_that_is_requeued_now() -> None:
    fields = {**ENDING, "Restarts": "2"}
    assert find_stop_cause(fields, restart_count=2, now=NOW) is StopCause.USER


def test_times_of_slurm_are_local_times() -> None:
    assert parse_moment("2026-01-05T12:00:00") == NOW
    assert parse_moment("Unknown") is None and parse_moment("") is None


def _job(**options) -> SlurmJob:
    values = {"restart": "requeue", "runs_dir": Path("runs"), "run_name": "r"}
    return SlurmJob("7", 0, ("n1",), **{**values, **options})


def test_scontrol_is_asked_again_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [SlurmError("killed"), SlurmUnavailableError("down"), {"JobState": "PREEMPTED"}]

    def show_job(job: str) -> dict[str, str]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(client, "show_job", show_job)
    monkeypatch.setattr("launcher.slurm.job.ASK_SECONDS", 0)
    assert asyncio.run(_job().why_terminated()) is StopCause.PREEMPTED


def test_the_end_of_the_job_is_asked_for_until_slurm_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [SlurmUnavailableError("down"), {"EndTime": "2026-01-05T12:00:00"}]

    def show_job(job: str) -> dict[str, str]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(client, "show_job", show_job)
    monkeypatch.setattr("launcher.slurm.job.RETRY_SECONDS", 0)
    assert asyncio.run(_job().end_time()) == NOW


def test_a_requeue_is_tried_again_while_the_controller_is_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[float] = []

    def requeue(job: str) -> None:
        calls.append(time.monotonic())
        if len(calls) < 3:
            raise SlurmUnavailableError("down")

    monkeypatch.setattr(client, "show_job", lambda _: {"JobState": "RUNNING"})
    monkeypatch.setattr(client, "requeue_job", requeue)
    monkeypatch.setattr("launcher.slurm.job.RETRY_SECONDS", 0)
    assert asyncio.run(_job().requeue())
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("fields", "continues"),
    [
        ({}, False),
        ({"JobState": "CANCELLED"}, False),
        ({"Reason": "TimeLimit"}, True),
        ({"PreemptTime": "2026-01-05T12:00:00"}, True),
        ({"JobState": "RUNNING"}, True),
    ],
)
def test_a_job_that_its_user_has_cancelled_is_not_queued_again(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], continues: bool
) -> None:
    queued: list[str] = []
    soon = datetime.fromtimestamp(time.time() - 100).isoformat(timespec="seconds")
    monkeypatch.setattr(client, "show_job", lambda _: {**ENDING, "StartTime": soon, **fields})
    monkeypatch.setattr(client, "requeue_job", queued.append)
    assert asyncio.run(_job().requeue()) is continues
    assert queued == (["7"] if continues else [])


def test_a_chain_has_one_successor_which_is_cancelled_if_the_run_does_not_continue() -> None:
    calls: list[str] = []

    def submit(job: str) -> str:
        calls.append(f"submit after {job}")
        return "8"

    def cancel(job: str) -> list[str]:
        calls.append(f"cancel all but {job}")
        return ["8"]

    async def run() -> None:
        job = _job(restart="chain", submit_successor=submit, cancel_successors=cancel)
        assert not job.can_requeue
        await job.begin()
        assert job.can_requeue
        await job.requeue()
        assert calls == ["submit after 7"]
        await job.release()
        assert calls == ["submit after 7", "cancel all but 7"]

    asyncio.run(run())


def test_a_chain_without_a_successor_cannot_continue() -> None:
    def submit(job: str) -> str:
        raise SlurmError("job submit limit reached")

    job = _job(restart="chain", submit_successor=submit)
    asyncio.run(job.begin())
    assert not job.can_requeue
