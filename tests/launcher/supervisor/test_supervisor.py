"""A supervised job with real agents and ranks gets to its end, and leaves nothing behind."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from launcher.supervisor import supervisor
from launcher.supervisor.attempt import RunningAttempt
from launcher.supervisor.report import SupervisorReport
from launcher.supervisor.values import EndKind, RequeueResult, StopCause
from tests.launcher.fake_ranks import is_alive, poll
from tests.launcher.supervisor.fake_training import Job, make_launch


@pytest.fixture
def job(tmp_path: Path, temporary: Path) -> Iterator[Callable[..., Job]]:
    """Makes jobs, and checks that they leave no process, socket or temporary folder."""
    made: list[Job] = []

    def make(**options: Any) -> Job:
        made.append(make_launch(tmp_path / "run", **options))
        return made[-1]

    yield make
    for each in made:
        left = [agent for agent in each.starter.agents.values() if agent.poll() is None]
        for agent in left:
            agent.kill()
            agent.wait()
        assert not left
        poll(lambda each=each: not any(map(is_alive, each.pids())))
    assert not list(temporary.iterdir())


def test_a_job_starts_ranks_on_all_nodes_and_ends_when_they_finish(job):
    made = job(nodes=["n1", "n2"], ranks_per_node=2, steps=10)
    assert made.supervise() == 0
    assert made.run.kinds() == [EndKind.FINISHED]
    assert [(made.run.folder / f"node-{rank}").read_text() for rank in range(4)] == (
        ["n1", "n1", "n2", "n2"]
    )
    assert [event["event"] for event in made.run.events] == (
        ["job_start", "attempt_end", "decision", "job_end"]
    )
    assert made.run.of("job_end")[0]["state"] == "finished"
    assert made.scheduler.calls == ["begin", "release"]


def test_a_killed_rank_is_named_and_all_ranks_are_started_again(job):
    made = job(steps=60)

    def kill(job: Job) -> None:
        job.wait_for_step(10)
        job.signal_rank(1, signal.SIGKILL)

    assert made.supervise(kill) == 0
    first, last = made.run.of("attempt_end")
    assert (first["kind"], first["rank"], first["nodes"]) == ("rank_failed", 1, ("n2",))
    assert first["last_step"] >= first["saved_step"] >= 10
    assert (last["kind"], last["started_at_step"]) == ("finished", first["saved_step"])
    (attempt, reason, rank) = made.run.failures[0]
    assert (attempt, rank) == (1, 1) and reason.startswith("rank 1 failed first: killed by SIGKILL")
    assert made.run.of("decision")[0]["action"] == "restart"


def test_a_lost_node_is_replaced_by_a_spare(job):
    made = job(nodes=["n1", "n2", "n3"], used=2, steps=60)

    def kill(job: Job) -> None:
        job.wait_for_step(10)
        job.kill_agent("n2")

    assert made.supervise(kill) == 0
    first, last = made.run.of("attempt_end")
    assert (first["kind"], first["nodes"]) == ("node_lost", ("n2",))
    decision = made.run.of("decision")[0]
    assert (decision["action"], decision["nodes"]) == ("restart", ["n1", "n3"])
    assert decision["excluded"] == ["n2"] == made.scheduler.excluded
    assert last["kind"] == "finished"
    report = json.loads((made.run.folder / "supervisor.json").read_text())
    assert report["nodes"]["n2"]["state"] == "excluded" and report["state"] == "ended"


def test_an_elastic_run_continues_on_fewer_nodes(job):
    made = job(nodes=["n1", "n2", "n3"], steps=60, elastic=True)

    def kill(job: Job) -> None:
        job.wait_for_step(10)
        job.kill_agent("n1")

    assert made.supervise(kill) == 0
    assert [start["world"] for start in made.run.starts()] == [3, 2]


def test_a_node_lost_without_a_spare_sends_the_job_back_to_the_queue(job):
    made = job(steps=600, can_requeue=True)

    def kill(job: Job) -> None:
        job.wait_for_step(5)
        job.kill_agent("n2")

    assert made.supervise(kill) == 0
    assert made.scheduler.calls == ["begin", "requeue"]
    assert made.run.of("job_end")[0]["state"] == "requeued"


def test_the_loss_of_one_of_several_agents_gives_up_the_whole_node(job):
    made = job(nodes=["n1", "n2", "n3"], used=2, ranks_per_node=2, agents_per_node=2, steps=60)

    def kill(job: Job) -> None:
        job.wait_for_step(10)
        job.kill_agent("n1", task=1)

    assert made.supervise(kill) == 0
    assert made.run.of("decision")[0]["nodes"] == ["n2", "n3"]


def test_agents_that_never_come_are_replaced_by_spares_at_the_first_start(job):
    made = job(nodes=["n1", "n2", "n3"], used=2, steps=5, missing=["n1"])
    assert made.supervise() == 0
    assert (made.run.folder / "node-0").read_text() == "n2"


def test_too_few_agents_are_reported_and_no_rank_starts(job):
    made = job(nodes=["n1", "n2"], steps=5, missing=["n1"])
    assert made.supervise() == 1
    assert made.run.starts() == []
    assert "n1" in made.run.final[1] and made.run.final[0] == "failed"


@pytest.mark.parametrize(
    ("ask", "cause"),
    [
        (lambda _: os.kill(os.getpid(), signal.SIGUSR2), StopCause.TIME_LIMIT),
        (lambda _: os.kill(os.getpid(), signal.SIGTERM), StopCause.PREEMPTED),
        (lambda job: job.starter.agents["n2", 0].send_signal(signal.SIGTERM), StopCause.PREEMPTED),
    ],
    ids=["warning signal", "SIGTERM", "SIGTERM to an agent"],
)
def test_a_run_that_the_scheduler_stops_saves_and_is_queued_again(job, ask, cause):
    made = job(steps=600, can_requeue=True)
    made.scheduler.cause = StopCause.PREEMPTED

    def stop(job: Job) -> None:
        job.wait_for_step(5)
        ask(job)

    assert made.supervise(stop) == 0
    (end,) = made.run.of("attempt_end")
    assert (end["kind"], end["stop_cause"]) == ("stopped", cause.value)
    assert end["saved_step"] == made.run.read("saved") >= 5
    assert made.scheduler.calls == ["begin", "requeue"]


def test_the_time_limit_of_the_job_stops_the_run_before_it_is_reached(job):
    made = job(steps=600, can_requeue=True, warning_seconds=100)
    made.scheduler.ends_at = time.time() + 103
    assert made.supervise() == 0
    assert made.run.of("attempt_end")[0]["stop_cause"] == "time limit"


def test_a_short_warning_leaves_the_ranks_time_to_save(job):
    made = job(steps=600, can_requeue=True, warning_seconds=12)
    made.scheduler.ends_at = time.time() + 14
    assert made.supervise() == 0
    (end,) = made.run.of("attempt_end")
    assert (end["kind"], end["message"]) == ("stopped", "stopped by the time limit")


def test_a_job_that_is_cancelled_before_its_requeue_has_ended(job):
    made = job(steps=600, can_requeue=True, warning_seconds=100)
    made.scheduler.ends_at = time.time() + 101
    made.scheduler.requeued = RequeueResult.CANCELLED
    assert made.supervise() == 0
    assert [end["state"] for end in made.run.of("job_end")] == ["requeued", "stopped"]
    assert not made.supervisor.continues_later


def test_a_refused_requeue_holds_the_run_and_fails_the_job(job):
    made = job(steps=600, can_requeue=True, warning_seconds=100)
    made.scheduler.ends_at = time.time() + 101
    made.scheduler.requeued = RequeueResult.REFUSED
    assert made.supervise() == 1
    assert [end["state"] for end in made.run.of("job_end")] == ["requeued", "held"]
    assert made.run.final[0] == "held" and "bigtrain requeue" in made.run.final[1]
    assert not made.supervisor.continues_later


def test_a_supervisor_that_fails_leaves_no_successor(job):
    made = job(network_interface="none0")
    with pytest.raises(ValueError, match="none0"):
        made.supervise()
    (end,) = made.run.of("job_end")
    assert end["state"] == "failed" and "none0" in end["reason"]
    assert made.scheduler.calls == ["begin", "release"]


def test_nodes_that_an_earlier_job_found_bad_get_ranks_only_if_no_other_is_left(job):
    made = job(nodes=["n1", "n2", "n3"], used=2, steps=5)
    made.scheduler.avoided = {"n1": "n1 (GPU 2 is slow)", "n3": "n3 (lost)"}
    assert made.supervise() == 0
    assert [(made.run.folder / f"node-{rank}").read_text() for rank in (0, 1)] == ["n2", "n3"]
    report = json.loads((made.run.folder / "supervisor.json").read_text())
    assert report["nodes"]["n1"]["state"] == "excluded"


@pytest.mark.parametrize("request_kind", ["stop", "cancel"])
def test_a_request_of_the_user_stops_the_run_for_good(job, request_kind):
    made = job(steps=600, can_requeue=True)

    def stop(job: Job) -> None:
        job.wait_for_step(5)
        request = {"request": request_kind, "job": "17"}
        (job.run.folder / "request.json").write_text(json.dumps(request))

    assert made.supervise(stop) == 0
    assert made.run.of("attempt_end")[0]["stop_cause"] == "user"
    assert made.run.of("job_end")[0]["state"] == "stopped"
    assert made.scheduler.calls == ["begin", "release"]
    assert not (made.run.folder / "request.json").exists()


def test_ranks_wait_for_the_lock_that_a_lost_node_holds(job):
    made = job(nodes=["n1", "n2", "n3"], used=2, steps=60)
    locked = made.run.folder / "locked"

    def lose_node(job: Job) -> None:
        job.wait_for_step(10)
        locked.touch()
        job.kill_agent("n1")
        job.wait(lambda: len(job.run.waits) == 2)
        locked.unlink()

    assert made.supervise(lose_node) == 0
    assert made.run.kinds() == [EndKind.NODE_LOST, EndKind.FINISHED]
    # An NFS server keeps the lock of a node that died for its lease, 90 s by default.
    assert min(made.run.waits) >= 120


def test_a_job_that_waits_for_the_lock_can_be_stopped(job):
    made = job(steps=600, can_requeue=True)
    (made.run.folder / "locked").touch()

    def stop(job: Job) -> None:
        job.wait(lambda: job.run.waits)
        request = {"request": "stop", "job": "17"}
        (job.run.folder / "request.json").write_text(json.dumps(request))

    assert made.supervise(stop) == 0
    (end,) = made.run.of("attempt_end")
    assert (end["kind"], end["stop_cause"]) == ("stopped", "user")
    assert "before the ranks started" in end["message"]
    assert made.run.starts() == []


def test_a_request_for_an_earlier_job_is_not_followed(job):
    made = job(steps=60)
    made.run.folder.mkdir(exist_ok=True)
    (made.run.folder / "request.json").write_text('{"request": "stop", "job": "16"}')
    assert made.supervise() == 0
    assert made.run.kinds() == [EndKind.FINISHED]


def test_the_same_error_at_the_same_step_twice_ends_the_job_with_its_attempts(job, caplog):
    made = job(body="if rank == 1 and step == 7: fail('ValueError: boom')")
    assert made.supervise() == 1 and made.run.final[0] == "failed" and "boom" in made.run.final[1]
    shown = [line.partition(" on ")[0] for line in caplog.messages[-2:]]
    assert shown == ["attempt 1: rank 1 failed", "attempt 2: rank 1 failed"]


def test_bad_input_of_a_rank_ends_the_job_with_exit_code_2(job):
    made = job(early="fail('data.train: no such folder', 2)")
    assert made.supervise() == 2
    assert made.run.kinds() == [EndKind.BAD_INPUT]


def test_a_run_that_diverged_is_rewound_and_continues(job):
    made = job(
        rewinds=1,
        body="""
            if step == 12 and len((folder / "starts").read_text().splitlines()) == 1:
                steps_of = dict(first_skipped=10, last_skipped=12, checkpoint_step=5)
                fail("DivergedError: loss is NaN", divergence=steps_of)
        """,
    )
    assert made.supervise() == 0
    assert made.run.kinds() == [EndKind.DIVERGED, EndKind.FINISHED]
    assert [each.first_skipped for each in made.run.rewound] == [10]
    assert [start["step"] for start in made.run.starts()] == [0, 5]


def test_a_run_that_hangs_is_reported_with_its_stacks_and_restarted(job):
    made = job(hang_seconds=2, steps=120)

    def stop(job: Job) -> None:
        # The agents report once a second, and a limit for steps needs several of them.
        job.wait_for_step(80)
        job.signal_rank(1, signal.SIGSTOP)

    assert made.supervise(stop) == 0
    first, last = made.run.of("attempt_end")
    assert (first["kind"], first["rank"], first["nodes"]) == ("hung", 1, ("n2",))
    assert last["kind"] == "finished"
    report = (made.run.log_dir / "hang-1.txt").read_text()
    assert "rank.py" in report and "stopped" in report


def test_a_finished_run_is_not_started_again(job):
    made = job(steps=5)
    (made.run.folder / "state").write_text('{"state": "finished"}')
    assert made.supervise() == 0
    assert made.run.events == [] and made.starter.agents == {}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGKILL])
def test_ranks_that_torchrun_starts_are_watched_stopped_and_restarted_alike(job, number):
    is_stop = number is signal.SIGUSR2
    made = job(
        ranks_per_node=2, steps=600 if is_stop else 150, can_requeue=True, starter="torchrun"
    )

    def disturb(job: Job) -> None:
        job.wait(lambda: job.run.read("saved") >= 50, seconds=120)
        if is_stop:
            os.kill(os.getpid(), number)
        else:
            job.signal_rank(3, number)

    assert made.supervise(disturb, seconds=240) == 0
    first = made.run.of("attempt_end")[0]
    nodes = [(made.run.folder / f"node-{rank}").read_text() for rank in range(4)]
    assert nodes == ["n1", "n1", "n2", "n2"]
    if is_stop:
        assert (first["kind"], first["stop_cause"]) == ("stopped", "time limit")
        assert first["saved_step"] == made.run.read("saved")
    else:
        assert (first["kind"], first["nodes"]) == ("rank_failed", ("n2",))
        assert made.run.kinds()[-1] == EndKind.FINISHED


def test_the_ranks_save_when_the_supervisor_fails(job, monkeypatch):
    made = job(steps=600)

    def fail(_: RunningAttempt) -> None:
        if made.run.read("saved") >= 5:
            raise RuntimeError("a fault of the supervisor")

    monkeypatch.setattr(RunningAttempt, "_on_time", fail)
    with pytest.raises(RuntimeError, match="a fault of the supervisor"):
        made.supervise()
    assert made.run.progress().state == "stopped"
    assert made.starter.lets_ranks_save


def test_the_last_report_waits_for_a_slow_one(job, monkeypatch):
    made = job(steps=60)  # The ranks run for longer than one report takes.
    write, running, states = SupervisorReport.write, Lock(), []

    def slow_write(report: SupervisorReport, fields: dict[str, Any]) -> None:
        assert running.acquire(blocking=False), "two reports are written at the same time"
        time.sleep(0.3)
        write(report, fields)
        states.append(fields["state"])
        running.release()

    monkeypatch.setattr(SupervisorReport, "write", slow_write)
    monkeypatch.setattr(supervisor, "REPORT_SECONDS", 0.001)
    assert made.supervise() == 0
    assert states[-1] == "ended" and "running" in states
