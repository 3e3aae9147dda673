"""Agents and ranks that the scheduler kills are no lost nodes and no failed ranks."""

import signal

import pytest

from launcher.supervisor.values import StopCause
from tests.launcher.supervisor.fake_training import Job
from tests.launcher.supervisor.test_supervisor import job

__all__ = ["job"]


def _kill_agent(job: Job) -> None:
    job.kill_agent("n1")


def _kill_rank(job: Job) -> None:
    job.signal_rank(1, signal.SIGKILL)


@pytest.mark.parametrize("kill", [_kill_agent, _kill_rank])
@pytest.mark.parametrize(
    ("ending", "then"),
    [
        (StopCause.PREEMPTED, "requeue"),
        (StopCause.TIME_LIMIT, "requeue"),
        (StopCause.USER, "release"),
    ],
)
def test_what_the_scheduler_kills_at_the_end_of_the_job_is_its_stop(job, kill, ending, then):
    made = job(steps=600, can_requeue=True)

    def end(job: Job) -> None:
        job.wait_for_step(5)
        job.scheduler.ending = ending
        kill(job)

    assert made.supervise(end) == 0
    (attempt_end,) = made.run.of("attempt_end")
    assert (attempt_end["kind"], attempt_end["stop_cause"]) == ("stopped", ending.value)
    assert attempt_end["nodes"] == () and made.scheduler.excluded == []
    assert attempt_end["message"].startswith("stopped by the scheduler, but not all ranks could")
    assert made.scheduler.calls == ["begin", then]


def test_agents_that_a_preemption_kills_at_their_start_are_not_lost_nodes(job):
    made = job(can_requeue=True, missing=["n1", "n2"])
    made.scheduler.ending = StopCause.PREEMPTED
    assert made.supervise() == 0
    (end,) = made.run.of("attempt_end")
    assert (end["kind"], end["stop_cause"]) == ("stopped", "preemption")
    assert made.scheduler.excluded == [] and made.scheduler.calls == ["begin", "requeue"]
