"""The learning rate schedules: warm-up, decay and minimum."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtrain.config import RunConfig
from bigtrain.train.learning_rate import learning_rate
from tests.runs import tiny_config

SCHEDULES = ["cosine", "linear", "wsd", "inverse_sqrt", "constant"]
ENDING = ["cosine", "linear", "wsd"]


def _config(**optim: Any) -> RunConfig:
    return tiny_config(Path("c"), Path("r"), optim={"learning_rate": 1.0, **optim})


def _rates(schedule: str, **optim: Any) -> list[float]:
    values = {"min_learning_rate": 0.1, "warmup_steps": 4, "decay_steps": 14, **optim}
    config = _config(schedule=schedule, **values)
    return [learning_rate(config, step) for step in range(1, 21)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_warm_up_is_linear_and_ends_at_the_peak(schedule: str) -> None:
    assert _rates(schedule)[:4] == [0.25, 0.5, 0.75, 1.0]


def test_linear_decay_falls_evenly_to_the_minimum_and_stays_there() -> None:
    rates = _rates("linear")
    assert rates[8] == pytest.approx(0.55)
    assert rates[13:] == pytest.approx([0.1] * 7)


def test_cosine_decay_is_slow_at_both_ends_and_halfway_at_half_time() -> None:
    rates = _rates("cosine")
    assert rates[8] == pytest.approx(0.55)
    assert rates[3] - rates[4] < rates[8] - rates[9]
    assert rates[13:] == pytest.approx([0.1] * 7)


def test_a_constant_rate_stays_at_the_peak() -> None:
    assert _rates("constant")[3:] == [1.0] * 17


def test_wsd_keeps_the_peak_until_its_last_steps() -> None:
    rates = _rates("wsd", anneal_steps=3)
    assert rates[3:11] == [1.0] * 8
    assert rates[11:] == pytest.approx([0.7, 0.4, *[0.1] * 7])


def test_wsd_decays_over_a_tenth_of_the_steps_by_default() -> None:
    assert _rates("wsd")[3:] == pytest.approx([*[1.0] * 10, *[0.1] * 7])
    config = _config(schedule="wsd", decay_steps=1000)
    assert learning_rate(config, 900) == 1.0
    assert learning_rate(config, 950) == pytest.approx(0.5)


def test_inverse_sqrt_falls_with_the_root_of_the_step_and_never_ends() -> None:
    rates = _rates("inverse_sqrt", min_learning_rate=0.0)
    assert rates[15] == pytest.approx(0.5)
    assert rates[3:] == pytest.approx([math.sqrt(4 / step) for step in range(4, 21)])
    config = _config(schedule="inverse_sqrt", min_learning_rate=0.1)
    assert learning_rate(config, 10**6) == 0.1


def test_inverse_sqrt_without_warm_up_starts_at_the_peak() -> None:
    assert _rates("inverse_sqrt", warmup_steps=0)[:4] == pytest.approx(
        [1.0, math.sqrt(1 / 2), math.sqrt(1 / 3), 0.5]
    )


@st.composite
def _any_config(draw: st.DrawFn, schedules: list[str]) -> RunConfig:
    steps = draw(st.integers(2, 400))
    warmup = draw(st.integers(0, steps - 1))
    schedule = draw(st.sampled_from(schedules))
    anneal = draw(st.none() | st.integers(1, steps - warmup)) if schedule == "wsd" else None
    return _config(
        schedule=schedule,
        decay_steps=steps,
        warmup_steps=warmup,
        anneal_steps=anneal,
        min_learning_rate=draw(st.floats(0, 1)),
    )


@given(config=_any_config(SCHEDULES))
def test_no_schedule_ever_leaves_its_bounds_or_rises_again(config: RunConfig) -> None:
    optim = config.optim
    rates = [learning_rate(config, step) for step in range(1, config.decay_steps + 50)]
    assert all(rate > 0 or optim.min_learning_rate == 0 for rate in rates)
    assert max(rates) <= optim.learning_rate
    assert learning_rate(config, max(1, optim.warmup_steps)) == pytest.approx(1.0, abs=1e-9) or (
        optim.warmup_steps == 0
    )
    after = rates[max(0, optim.warmup_steps - 1) :]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(after))
    assert min(after) >= min(optim.min_learning_rate, optim.learning_rate) - 1e-12


@given(config=_any_config(ENDING))
def test_a_decay_ends_at_the_minimum_and_has_no_jumps(config: RunConfig) -> None:
    optim = config.optim
    for step in (config.decay_steps, config.decay_steps + 1, config.decay_steps + 1000):
        assert learning_rate(config, step) == pytest.approx(optim.min_learning_rate, abs=1e-12)
    span = config.decay_steps - optim.warmup_steps
    if optim.schedule == "wsd":
        span = min(span, optim.anneal_steps or max(1, config.decay_steps // 10))
    # The slope of a cosine is at most π/2 times that of a line.
    steepest = (optim.learning_rate - optim.min_learning_rate) * math.pi / 2 / span
    rates = [learning_rate(config, step) for step in range(max(1, optim.warmup_steps), 500)]
    assert all(earlier - later <= steepest + 1e-9 for earlier, later in pairwise(rates))
