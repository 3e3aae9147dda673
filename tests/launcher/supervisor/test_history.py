"""The ends of attempts are read back, also of jobs whose supervisor was lost."""

from typing import Any

from launcher.supervisor.history import find_lost_end, read_history
from launcher.supervisor.values import EndKind

Events = list[dict[str, Any]]


def _job(number: int) -> dict[str, Any]:
    return {"event": "job_start", "job": "7", "restart_count": number, "nodes": ["n1", "n2"]}


def _start(step: int) -> dict[str, Any]:
    return {"event": "start", "attempt": 1, "step": step}


def _end(kind: str, started: int, last: int, saved: int) -> dict[str, Any]:
    steps = {"started_at_step": started, "last_step": last, "saved_step": saved}
    return {"event": "attempt_end", "kind": kind, "nodes": [], **steps}


JOB_END = {"event": "job_end", "state": "requeued"}


def test_a_job_that_recorded_its_end_was_not_lost() -> None:
    events = [_job(0), _start(0), _end("stopped", 0, 5, 5), JOB_END]
    assert find_lost_end(events, saved_step=5) is None
    assert [end.kind for end in read_history(events)] == [EndKind.STOPPED]
    assert find_lost_end([], saved_step=0) is None


def test_the_newest_job_without_an_end_was_lost_with_its_attempt() -> None:
    events = [_job(0), _start(0), _end("rank_failed", 0, 12, 10), _start(10)]
    end = find_lost_end(events, saved_step=20)
    assert end is not None
    assert (end.kind, end.started_at_step, end.saved_step) == (EndKind.NODE_LOST, 10, 20)
    assert end.message == "job 7 lost its supervisor, on n1"
    assert end.nodes == ()  # If the node is back, it may be used.
    assert end.made_progress
    assert [each.kind for each in read_history(events)] == [EndKind.RANK_FAILED]


def test_a_job_that_is_lost_before_its_first_attempt_makes_no_progress() -> None:
    for earlier in ([], [_job(0), _start(0), _end("stopped", 0, 20, 20), JOB_END]):
        end = find_lost_end([*earlier, _job(1)], saved_step=20)
        assert end is not None and not end.made_progress
        assert (end.started_at_step, end.saved_step) == (20, 20)
    first, second = read_history([_job(0), _job(1), _job(2), _start(20), JOB_END])
    assert not first.made_progress and not second.made_progress


def test_jobs_lost_earlier_count_and_the_next_start_tells_what_they_saved() -> None:
    events = [_job(0), _start(0), _job(1), _start(30), _job(2), _start(30), JOB_END]
    first, second = read_history(events)
    assert (first.started_at_step, first.saved_step) == (0, 30)
    assert (second.started_at_step, second.saved_step) == (30, 30)
    assert first.made_progress and not second.made_progress
