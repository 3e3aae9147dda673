"""The ledger counts each allocated second once; figures are computed by hand."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.runs.goodput import AttemptSeconds, Kind, Ledger, build_ledger, find_spans
from bigtrain.runs.run_events import group_into_jobs, last_steps_that_count

Events = list[dict[str, Any]]


def _event(event: str, at: float, **values: Any) -> dict[str, Any]:
    return {"event": event, "time": datetime.fromtimestamp(at, UTC).isoformat(), **values}


def _job(job: str, at: float) -> dict[str, Any]:
    return _event("job_start", at, job=job, restart_count=0, nodes=["n1", "n2"])


def _start(attempt: int, at: float, *, step: int = 0) -> dict[str, Any]:
    return _event("start", at, attempt=attempt, step=step, world_size=2)


def _end(attempt: int, at: float, *, kind: str, step: int = 0, saved: int = 0) -> dict[str, Any]:
    return _event(
        "attempt_end", at, attempt=attempt, kind=kind, last_step=step, saved_step=saved, message=""
    )


def _ledger(events: Events, sums: dict[int, AttemptSeconds], **options: Any) -> Ledger:
    return build_ledger(group_into_jobs(events), sums, **{"until": 0.0, **options})


def _nonzero(ledger: Ledger) -> dict[Kind, float]:
    return {kind: round(value, 6) for kind, value in ledger.seconds.items() if value > 1e-9}


def test_one_job_that_finishes() -> None:
    # 1000 start, 1060 first step, 60 + 10 + 5 + 2 inside, 1137 last step, 1140 saved, 1150 end.
    events = [
        _job("7", 1000),
        _start(1, 1050),
        _end(1, 1141, kind="finished"),
        _event("job_end", 1150, job="7", state="finished", reason=None),
    ]
    sums = AttemptSeconds(
        steps=60, checkpoint=10, validation=5, last_checkpoint=3, first=1060, last=1137
    )
    ledger = _ledger(events, {1: sums}, submitted=700.0)
    assert _nonzero(ledger) == {
        Kind.STEPS: 60,
        Kind.CHECKPOINT: 13,
        Kind.VALIDATION: 5,
        Kind.START_UP: 60,
        Kind.OTHER: 2,
        Kind.SHUT_DOWN: 1 + 9,
    }
    assert ledger.allocated == pytest.approx(150)
    assert ledger.goodput == pytest.approx(60 / 150)
    assert ledger.queued == pytest.approx(300)


def test_a_failure_costs_the_time_from_the_last_step_before_it_to_the_first_after_it() -> None:
    events = [
        _job("7", 0),
        _start(1, 10),
        _end(1, 150, kind="hung", step=9, saved=5),
        _start(2, 170, step=5),
        _end(2, 260, kind="finished", step=20, saved=20),
        _event("job_end", 260, job="7", state="finished", reason=None),
    ]
    # 9 steps of 10 s from 20 to 110, of which 4 were lost; then a hang until 150.
    first = AttemptSeconds(steps=50, recomputed=40, first=20, last=110)
    second = AttemptSeconds(steps=80, first=180, last=260)
    assert _nonzero(_ledger(events, {1: first, 2: second})) == {
        Kind.START_UP: 20,
        Kind.STEPS: 130,
        Kind.RECOMPUTED: 40,
        Kind.RESTARTS: (150 - 110) + (180 - 150),
    }


def test_time_between_two_jobs_is_not_allocated() -> None:
    events = [
        _job("7", 100),
        _start(1, 110),
        _end(1, 200, kind="stopped"),
        _event("job_end", 200, job="7", state="requeued", reason="time limit"),
        _job("7", 500),
        _start(2, 520),
        _end(2, 600, kind="finished"),
        _event("job_end", 600, job="7", state="finished", reason=None),
    ]
    sums = {
        1: AttemptSeconds(steps=90, first=110, last=200),
        2: AttemptSeconds(steps=80, first=520, last=600),
    }
    ledger = _ledger(events, sums, submitted=40.0)
    assert ledger.queued == pytest.approx(60 + 300)
    assert _nonzero(ledger) == {Kind.STEPS: 170, Kind.START_UP: 30}


def test_a_job_that_was_killed_ends_with_its_last_news() -> None:
    events = [_job("7", 0), _start(1, 10), _job("8", 1000), _start(2, 1010)]
    sums = {
        1: AttemptSeconds(steps=80, first=20, last=100),
        2: AttemptSeconds(steps=50, first=1020, last=1070),
    }
    ledger = _ledger(events, sums, until=1075.0)
    assert ledger.allocated == pytest.approx(100 + 75)
    assert ledger.queued == pytest.approx(900)
    assert _nonzero(ledger) == {Kind.START_UP: 40, Kind.STEPS: 130, Kind.OTHER: 5}


def test_a_job_that_has_not_begun_to_train_is_start_up() -> None:
    assert _nonzero(_ledger([_job("7", 100)], {}, until=160.0)) == {Kind.START_UP: 60}


def test_attempts_without_a_job_begin_before_their_checkpoint_is_loaded() -> None:
    events = [
        _start(1, 110),
        _event("end", 200, attempt=1, state="failed", step=8, reason="x", seconds=100.0),
        _start(2, 5000, step=5),
        _event("end", 5100, attempt=2, state="finished", step=20, reason=None, seconds=100.0),
    ]
    sums = {
        1: AttemptSeconds(steps=50, recomputed=30, first=115, last=195),
        2: AttemptSeconds(steps=99, first=5001, last=5100),
    }
    ledger = _ledger(events, sums)
    assert ledger.queued == 0
    assert _nonzero(ledger) == {
        Kind.START_UP: 15 + 1,
        Kind.STEPS: 149,
        Kind.RECOMPUTED: 30,
        Kind.RESTARTS: 5,
    }


def test_lines_without_times_leave_the_unknown_to_other() -> None:
    events = [_job("7", 0), _start(1, 10), _end(1, 100, kind="finished")]
    ledger = _ledger(events, {1: AttemptSeconds(steps=70, checkpoint=5)}, until=100.0)
    assert _nonzero(ledger) == {
        Kind.START_UP: 10,
        Kind.STEPS: 70,
        Kind.CHECKPOINT: 5,
        Kind.OTHER: 15,
    }


def test_a_run_without_records_has_no_goodput() -> None:
    ledger = _ledger([], {})
    assert ledger.goodput is None
    assert ledger.allocated == 0


def test_steps_after_the_start_of_a_later_attempt_do_not_count() -> None:
    events = [_start(1, 0), _start(2, 10, step=30), _start(3, 20, step=50)]
    assert last_steps_that_count(events) == {1: 30, 2: 50}


def test_a_rewind_takes_steps_of_all_earlier_attempts() -> None:
    events = [_start(1, 0), _start(2, 10, step=30), _event("rewind", 20, to=20, set_aside=[])]
    assert last_steps_that_count(events) == {1: 20, 2: 20}


def test_steps_after_the_last_checkpoint_of_a_failed_attempt_do_not_count() -> None:
    events = [_start(1, 0), _end(1, 10, kind="rank_failed", step=37, saved=30)]
    assert last_steps_that_count(events) == {1: 30}
    stopped = [_start(1, 0), _end(1, 10, kind="stopped", step=37, saved=37)]
    assert last_steps_that_count(stopped) == {}


def test_damaged_events_are_left_out() -> None:
    events = [
        {"event": "start", "attempt": 1},
        _event("job_start", 5),
        {"event": "end", "time": "yesterday"},
        {"event": "attempt_end", "attempt": 9, "time": datetime.fromtimestamp(9, UTC).isoformat()},
    ]
    (job,) = group_into_jobs(events)
    assert (job.began, job.attempts) == (5, [])
    assert _ledger(events, {}, until=9.0).allocated == pytest.approx(4)


_SECONDS = st.floats(0, 1000)
_TIMES = st.one_of(st.none(), st.floats(0, 5000))


@st.composite
def _histories(draw: st.DrawFn) -> Events:
    """Events of jobs and attempts in any order of time, with ends missing."""
    kinds = st.sampled_from(["job_start", "start", "attempt_end", "end", "job_end", "rewind"])
    events, attempt, now = [], 0, 0.0
    for kind in draw(st.lists(kinds, max_size=14)):
        now += draw(st.floats(-50, 1000))  # Clocks of hosts differ.
        attempt += kind == "start"
        step = draw(st.integers(0, 100))
        values: dict[str, Any] = {"attempt": attempt, "step": step, "seconds": draw(_SECONDS)}
        values |= {"job": str(draw(st.integers(1, 3))), "to": step, "saved_step": step}
        values |= {"kind": draw(st.sampled_from(["finished", "hung", "stopped"])), "state": "x"}
        events.append(_event(kind, max(0.0, now), **values))
    return events


_SUMS = st.builds(
    AttemptSeconds,
    **dict.fromkeys(
        ("steps", "skipped", "recomputed", "checkpoint", "validation", "last_checkpoint"), _SECONDS
    ),
    first=_TIMES,
    last=_TIMES,
)


@settings(max_examples=200, deadline=None)
@given(
    events=_histories(),
    sums=st.dictionaries(st.integers(0, 8), _SUMS),
    until=st.floats(0, 20_000),
    submitted=_TIMES,
)
def test_the_kinds_add_up_to_the_time_of_all_jobs(
    events: Events, sums: dict[int, AttemptSeconds], until: float, submitted: float | None
) -> None:
    jobs = group_into_jobs(events)
    ledger = build_ledger(jobs, sums, until=until, submitted=submitted)
    spans = find_spans(jobs, sums, until=until)
    assert len(spans) == len(jobs)
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(spans))
    assert min(ledger.seconds.values()) >= 0
    assert ledger.allocated == pytest.approx(sum(end - begin for begin, end in spans))
    for job, (begin, end) in zip(jobs, spans, strict=True):
        if job.job is not None and begin == job.began and job.ended is not None:
            assert end == max(begin, job.ended)
