"""What SLURM says about the job of the supervisor: why it is ended, and when."""

import asyncio
import time
from datetime import datetime
from pathlib import Path

import pytest

from launcher.excluded_nodes import remember_excluded
from launcher.slurm import client
from launcher.slurm.errors import SlurmError, SlurmUnavailableError
from launcher.slurm.job import SlurmJob, find_end, find_end_cause, find_stop_cause
from launcher.slurm.times import parse_moment
from launcher.supervisor.values import RequeueResult, StopCause
from tests.launcher.slurm.fake_slurm import FakeSlurm

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


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"JobState": "RUNNING"}, None),
        ({"JobState": "RUNNING", "EndTime": "2026-01-06T08:00:00"}, None),
        ({"JobState": "SUSPENDED"}, None),
        ({}, StopCause.USER),
        ({"JobState": "CANCELLED"}, StopCause.USER),
        ({"JobState": "RUNNING", "TimeLimit": "04:00:30"}, StopCause.TIME_LIMIT),
        ({"TimeLimit": "04:00:00"}, StopCause.TIME_LIMIT),
        ({"JobState": "TIMEOUT"}, StopCause.TIME_LIMIT),
        ({"JobState": "RUNNING", "PreemptTime": "2026-01-05T12:00:00"}, StopCause.PREEMPTED),
        ({"Restarts": "1", "EndTime": "Unknown"}, StopCause.PREEMPTED),
    ],
)
def test_a_job_ends_only_if_slurm_says_so(fields: dict[str, str], cause: StopCause | None) -> None:
    assert find_end_cause({**ENDING, **fields}, restart_count=0, now=NOW) is cause
    assert find_end_cause({}, restart_count=0, now=NOW) is None


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


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({}, NOW),
        ({"EndTime": "Unknown"}, NOW + 20 * 3600),
        ({"EndTime": "Unknown", "TimeLimit": "UNLIMITED"}, None),
        # The end of the time of grace.
        ({"PreemptTime": "2026-01-05T11:59:00"}, NOW + 20 * 3600),
    ],
)
def test_the_end_of_a_job_follows_from_its_start_if_slurm_does_not_know_it(
    fields: dict[str, str], end: float | None
) -> None:
    assert find_end({**ENDING, **fields}) == end


def test_no_answer_about_the_end_of_the_job_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(job: str) -> dict[str, str]:
        raise SlurmUnavailableError("down")

    monkeypatch.setattr(client, "show_job", fail)
    assert asyncio.run(_job().end_time()) is None


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 20),
        ({"JobState": "RUNNING"}, None),
        ({"JobState": "RUNNING", "PreemptTime": "x", "EndTime": "Unknown"}, None),
    ],
)
def test_a_job_that_ends_is_killed_after_the_cluster_s_kill_wait(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], seconds: float | None
) -> None:
    monkeypatch.setattr(client, "show_job", lambda _: {**ENDING, **fields})
    monkeypatch.setattr(client, "show_config", lambda: {"KillWait": "20 sec"})
    kill = asyncio.run(_job().kill_time())
    assert (kill is None) == (seconds is None)
    assert kill is None or abs(kill - time.time() - 20) < 5


def test_a_preempted_job_is_killed_after_its_time_of_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"JobState": "RUNNING", "PreemptTime": "2026-01-05T11:59:00"}
    monkeypatch.setattr(client, "show_job", lambda _: {**ENDING, **fields})
    monkeypatch.setattr(client, "show_config", dict)
    assert asyncio.run(_job().kill_time()) == NOW + 30


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
    assert asyncio.run(_job().requeue()) is RequeueResult.QUEUED
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
    result = RequeueResult.QUEUED if continues else RequeueResult.CANCELLED
    assert asyncio.run(_job().requeue()) is result
    assert queued == (["7"] if continues else [])


@pytest.mark.parametrize(
    ("error", "fields", "result"),
    [
        ("Requested operation is presently disabled", {}, RequeueResult.REFUSED),
        ("Access/permission denied", {"JobState": "RUNNING"}, RequeueResult.REFUSED),
        ("Job is pending execution", {"JobState": "PENDING"}, RequeueResult.QUEUED),
        ("scontrol failed with exit code -15", {"Restarts": "1"}, RequeueResult.QUEUED),
    ],
)
def test_a_requeue_has_succeeded_only_if_the_job_is_in_the_queue(
    monkeypatch: pytest.MonkeyPatch, error: str, fields: dict[str, str], result: RequeueResult
) -> None:
    def requeue(job: str) -> None:
        raise SlurmError(error)

    monkeypatch.setattr(client, "show_job", lambda _: {"JobState": "RUNNING", **fields})
    monkeypatch.setattr(client, "requeue_job", requeue)
    monkeypatch.setattr(client, "exclude_nodes", lambda *_: None)
    assert asyncio.run(_job().requeue()) is result


def test_a_requeued_job_does_not_get_nodes_again_that_failed(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "runs" / "r" / "job.sh"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/bash\n#SBATCH --nodes=2\n#SBATCH --partition=main\n")
    remember_excluded(tmp_path / "runs", ["n3"], reason="lost", run="r")
    slurm.answer("scontrol", "show job", "JobId=7 JobState=RUNNING")
    slurm.answer("scontrol", "requeue", "")
    slurm.answer("scontrol", "update", "")
    # SLURM's SIGTERM after the requeue reaches all processes of the job.
    slurm.answer("scontrol", "ExcNodeList", "", "", 143)
    monkeypatch.setattr("launcher.slurm.job.ASK_SECONDS", 0)
    job = _job(runs_dir=tmp_path / "runs")
    assert asyncio.run(job.requeue()) is RequeueResult.QUEUED
    calls = [words for words, _ in slurm.calls("scontrol") if words[0] in ("requeue", "update")]
    update = ["update", "JobId=7", "ExcNodeList=n3"]
    assert calls == [["requeue", "7"], *[update] * 6]
    slurm.answer("scontrol", "ExcNodeList", "")
    sinfo = len(slurm.calls("sinfo"))
    monkeypatch.setattr(client, "requeue_job", lambda _: _break_sinfo(slurm))
    assert asyncio.run(job.requeue()) is RequeueResult.QUEUED
    assert slurm.calls("scontrol")[-1][0] == update
    assert len(slurm.calls("sinfo")) == 2 * sinfo


def _break_sinfo(slurm: FakeSlurm) -> None:
    slurm.answer("sinfo", "--Node", "", "", 143)


def test_nodes_that_failed_in_another_job_are_known(tmp_path: Path) -> None:
    remember_excluded(tmp_path, ["n1", "n9"], reason="GPU 2 is slow", run="other")
    avoided = _job(runs_dir=tmp_path).find_avoided()
    assert avoided.keys() == {"n1"} and "GPU 2 is slow" in avoided["n1"]


def test_a_chain_continues_in_the_successor_unless_it_was_cancelled_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
        assert await job.requeue() is RequeueResult.QUEUED
        soon = datetime.fromtimestamp(time.time() - 100).isoformat(timespec="seconds")
        monkeypatch.setattr(client, "show_job", lambda _: {**ENDING, "StartTime": soon})
        assert await job.requeue() is RequeueResult.CANCELLED
        assert calls == ["submit after 7"]
        await job.release()
        assert calls == ["submit after 7", "cancel all but 7"]
        assert not job.can_requeue

    monkeypatch.setattr(client, "show_job", lambda _: {"JobState": "RUNNING"})
    asyncio.run(run())
