"""A job outlives faults that pass: of its files, of what starts its agents, of one rank's input."""

import json
import signal
import time
from collections.abc import Callable

import pytest

from launcher.supervisor.interfaces import PreflightResult
from launcher.supervisor.values import EndKind
from tests.launcher.supervisor.fake_training import Job
from tests.launcher.supervisor.test_supervisor import job

__all__ = ["job"]


def _fails(name: str, *, times: int) -> Callable[[str], bool]:
    """A file system that fails when a method is called, a number of times."""
    left = [times]

    def unusable(called: str) -> bool:
        if called == name and left[0] > 0:
            left[0] -= 1
            return True
        return False

    return unusable


@pytest.mark.parametrize("name", ["is_finished", "history", "progress", "launch_config"])
def test_files_that_cannot_be_used_for_a_moment_are_tried_again(job, name):
    made = job(steps=5)
    made.run.unusable = _fails(name, times=2)
    assert made.supervise() == 0
    assert made.run.kinds() == [EndKind.FINISHED]


@pytest.mark.parametrize("name", ["is_finished", "history", "progress", "launch_config"])
def test_files_that_cannot_be_used_for_long_send_the_job_back_to_the_queue(job, name):
    made = job(steps=5, can_requeue=True)
    made.run.unusable = _fails(name, times=1000)
    assert made.supervise() == 0
    assert made.run.kinds() == [EndKind.FILES_UNAVAILABLE]
    assert "Stale file handle" in made.run.of("decision")[0]["reason"]
    assert made.scheduler.calls == ["begin", "requeue"] and made.scheduler.excluded == []


def test_files_that_cannot_be_used_after_an_attempt_send_the_job_back_to_the_queue(job):
    made = job(steps=5, can_requeue=True)
    made.run.unusable = lambda name: name == "progress" and len(made.run.starts()) > 0
    assert made.supervise() == 0
    assert made.run.kinds() == [EndKind.FILES_UNAVAILABLE]
    assert made.scheduler.calls == ["begin", "requeue"]


def test_a_user_who_stops_a_run_whose_files_cannot_be_used_is_obeyed(job):
    made = job(steps=600, can_requeue=True)

    def stop(job: Job) -> None:
        job.wait_for_step(5)
        made.run.unusable = lambda name: name == "progress"
        (job.run.folder / "request.json").write_text('{"request": "stop", "job": "17"}')

    assert made.supervise(stop) == 0
    (end,) = made.run.of("attempt_end")
    assert (end["kind"], end["stop_cause"]) == ("stopped", "user")
    assert made.scheduler.calls == ["begin", "release"]


def test_a_rewind_whose_files_cannot_be_used_for_a_moment_is_made(job):
    made = job(
        rewinds=1,
        steps=20,
        body="""
            if step == 12 and len((folder / "starts").read_text().splitlines()) == 1:
                steps_of = dict(first_skipped=10, last_skipped=12, checkpoint_step=5)
                fail("DivergedError: loss is NaN", divergence=steps_of)
        """,
    )
    made.run.unusable = _fails("rewind", times=2)
    assert made.supervise() == 0
    assert [each.first_skipped for each in made.run.rewound] == [10]


def test_checks_whose_files_cannot_be_used_for_a_moment_are_repeated(job):
    errors = [OSError(116, "Stale file handle"), TimeoutError()]

    async def check(_nodes: object) -> PreflightResult:
        if errors:
            raise errors.pop()
        return PreflightResult()

    made = job(steps=5, preflight=check)
    assert made.supervise() == 0 and errors == []


@pytest.mark.parametrize("some", [False, True], ids=["no agent came", "one came and died"])
def test_a_start_of_the_agents_that_fails_is_repeated(job, some):
    made = job(nodes=["n1", "n2", "n3"], steps=5)
    made.starter.failures, made.starter.starts_some = 2, some
    made.starter.connected = lambda: bool(made.supervisor.agents.ready())
    assert made.supervise() == 0
    assert made.starter.starts == 3
    assert made.run.kinds() == [EndKind.FINISHED] and made.scheduler.excluded == []


def test_no_node_is_avoided_if_all_starts_of_the_agents_fail(job):
    made = job(nodes=["n1", "n2"], can_requeue=True)
    made.starter.failures = 3
    assert made.supervise() == 0
    (end,) = made.run.of("attempt_end")
    assert (end["kind"], end["nodes"]) == ("node_lost", ())
    assert "srun ended with code 1" in end["message"]
    assert made.scheduler.excluded == [] and made.scheduler.calls == ["begin", "requeue"]


def test_nodes_that_vanish_together_are_not_avoided(job):
    made = job(nodes=["n1", "n2", "n3"], steps=600, can_requeue=True)

    def kill(job: Job) -> None:
        job.wait_for_step(5)
        for node in ("n1", "n2"):
            job.kill_agent(node)

    assert made.supervise(kill) == 0
    (end,) = made.run.of("attempt_end")
    assert (end["kind"], end["nodes"]) == ("node_lost", ())
    assert made.scheduler.excluded == [] and made.scheduler.calls == ["begin", "requeue"]


def test_input_that_cannot_be_used_after_the_attempt_began_is_a_fault_of_the_node(job):
    first = 'rank == 1 and len((folder / "starts").read_text().splitlines()) == 1'
    made = job(steps=10, body=f"if step == 7 and {first}: fail('/data/a.tar: no such file', 2)")
    assert made.supervise() == 0
    end = made.run.of("attempt_end")[0]
    assert (end["kind"], end["nodes"]) == ("rank_failed", ("n2",))
    assert made.run.kinds()[-1] == EndKind.FINISHED


def test_input_that_an_earlier_attempt_of_the_job_could_use_is_not_bad(job):
    early = """
        starts = folder / "starts"
        if rank == 1 and starts.exists() and not (folder / "gone").exists():
            put("gone", 1)
            fail("/data: no such folder", 2)
    """
    made = job(steps=40, early="\n".join(line[8:] for line in early.splitlines()))

    def kill(job: Job) -> None:
        job.wait_for_step(10)
        job.signal_rank(0, signal.SIGKILL)

    assert made.supervise(kill) == 0
    assert made.run.kinds() == [EndKind.RANK_FAILED, EndKind.RANK_FAILED, EndKind.FINISHED]


# A message without digits, which do not make errors different.
BOOM = """
    word = "".join(chr(97 + int(digit)) for digit in str(os.getpid()))
    if rank == 1 and step == 3: fail(f"boom {word}")
"""


def test_a_restart_waits_as_long_as_was_decided_and_says_so(job):
    made = job(body=BOOM, restart_delays=(0.0, 2.5))
    messages = []

    def watch(job: Job) -> None:
        job.wait(lambda: len(job.run.of("decision")) == 2)
        began = time.monotonic()
        file = job.run.folder / "supervisor.json"
        job.wait(lambda: "restarting in" in file.read_text())
        messages.append(json.loads(file.read_text()))
        job.wait(lambda: len(job.run.of("attempt_end")) == 3)
        assert time.monotonic() - began > 2

    assert made.supervise(watch) == 1
    assert messages[0]["state"] == "restarting" and "restarting in 2 s" in messages[0]["message"]
    assert made.run.of("job_end")[0]["state"] == "held"


def test_the_wait_before_a_restart_ends_when_the_job_is_asked_to_stop(job):
    made = job(body=BOOM, restart_delays=(100.0,))

    def stop(job: Job) -> None:
        job.wait(lambda: len(job.run.of("decision")) == 1)
        (job.run.folder / "request.json").write_text('{"request": "stop", "job": "17"}')

    assert made.supervise(stop, seconds=20) == 0
    assert made.run.kinds() == [EndKind.RANK_FAILED, EndKind.STOPPED]


def test_a_run_that_loses_its_supervisor_again_and_again_is_held(job):
    made = job(steps=10)
    lost = {"event": "job_start", "job": "7", "nodes": ["n1", "n2"]}
    made.run.earlier = [dict(lost) for _ in range(3)]
    assert made.supervise() == 1
    assert made.run.of("job_end")[0]["state"] == "held"
    assert "3 attempts in a row failed" in made.run.of("job_end")[0]["reason"]
    assert "job 7 lost its supervisor, on n1" in made.run.of("job_end")[0]["reason"]
    assert made.run.starts() == []


def test_a_run_continues_after_the_loss_of_its_supervisor(job):
    made = job(steps=10)
    made.run.earlier = [{"event": "job_start", "job": "7", "nodes": ["n1", "n2"]}]
    assert made.supervise() == 0
    first = made.run.of("decision")[0]
    assert first["action"] == "restart" and "job 7 lost its supervisor" in first["reason"]
