"""The learning rate warms up, decays, and stays down."""

from pathlib import Path

import pytest

from bigtrain.train.learning_rate import learning_rate
from tests.runs import tiny_config


def _rates(schedule: str) -> list[float]:
    optim = {
        "learning_rate": 1.0,
        "min_learning_rate": 0.1,
        "warmup_steps": 4,
        "decay_steps": 14,
        "schedule": schedule,
    }
    config = tiny_config(Path("c"), Path("r"), optim=optim)
    return [learning_rate(config, step) for step in range(1, 21)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_warm_up_is_linear_and_ends_at_the_peak(schedule: str) -> None:
    assert _rates(schedule)[:4] == [0.25, 0.5, 0.75, 1.0]


def test_linear_decay_goes_down_evenly_to_the_minimum_and_stays() -> None:
    rates = _rates("linear")
    assert rates[8] == pytest.approx(0.55)
    assert rates[13:] == pytest.approx([0.1] * 7)


def test_cosine_decay_is_slow_at_both_ends_and_halfway_in_the_middle() -> None:
    rates = _rates("cosine")
    assert rates[8] == pytest.approx(0.55)
    assert rates[3] - rates[4] < rates[8] - rates[9]
    assert rates[13:] == pytest.approx([0.1] * 7)


def test_a_constant_rate_stays_at_the_peak() -> None:
    assert _rates("constant")[3:] == [1.0] * 17
