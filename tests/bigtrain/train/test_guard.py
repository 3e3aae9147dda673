"""The guard passes over what is far above its recent past, and nothing else."""

import json
import math
import random
from typing import Any

import pytest

from bigtrain.config.sections import GuardConfig
from bigtrain.train.guard import Guard

WINDOW = 16


def _guard(steps: int = WINDOW, *, seed: int = 1, **config: Any) -> Guard:
    """A guard that has seen so many steps with a loss about 3 and a norm about 1."""
    guard = Guard(GuardConfig(**{"window": WINDOW, **config}))
    chance = random.Random(seed)
    for _ in range(steps):
        assert guard.reason_to_skip(chance.gauss(3, 0.1), chance.gauss(1, 0.1)) is None
    return guard


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_passed_over_from_the_first_step_on(value: float) -> None:
    guard = _guard(0, sigmas=0)
    assert guard.reason_to_skip(value, 1.0) == f"the loss is {value:g}"
    assert guard.reason_to_skip(1.0, value) == f"the gradient's norm is {value:g}"
    assert guard.skipped_updates == 2


def test_a_loss_or_norm_far_above_the_recent_past_is_passed_over() -> None:
    assert "loss of 4 is" in str(_guard().reason_to_skip(4.0, 1.0))
    assert "gradient's norm of 2 is" in str(_guard().reason_to_skip(3.0, 2.0))
    assert _guard().reason_to_skip(3.3, 1.3) is None


def test_what_is_far_below_is_welcome() -> None:
    assert _guard().reason_to_skip(0.1, 0.01) is None


def test_there_are_no_outliers_before_half_the_window_is_full() -> None:
    assert _guard(WINDOW // 2 - 1).reason_to_skip(100.0, 100.0) is None
    assert _guard(WINDOW // 2).reason_to_skip(100.0, 100.0) is not None


def test_without_sigmas_there_are_no_outliers() -> None:
    assert _guard(sigmas=0).reason_to_skip(1e9, 1e9) is None


@pytest.mark.parametrize("sigmas", [0, 6])
def test_a_past_of_zeros_is_a_past_like_any_other(sigmas: float) -> None:
    guard = Guard(GuardConfig(window=WINDOW, sigmas=sigmas))
    for _ in range(WINDOW):
        assert guard.reason_to_skip(0.0, 0.0) is None
    assert (guard.reason_to_skip(0.0, 1.0) is None) is (sigmas == 0)


def test_a_flat_past_makes_no_outliers_of_rounding_noise() -> None:
    guard = Guard(GuardConfig(window=WINDOW))
    for _ in range(WINDOW):
        guard.reason_to_skip(0.5, 0.0)
    assert guard.reason_to_skip(0.5 * (1 + 1e-6), 0.0) is None
    assert guard.reason_to_skip(0.6, 0.0) is not None


def test_what_is_not_finite_is_no_part_of_the_past() -> None:
    guard, clean = _guard(), _guard()
    for _ in range(5):
        assert guard.reason_to_skip(math.nan, 1.0) is not None
    assert guard.state["losses"] == clean.state["losses"]
    assert guard.state["grad_norms"] == clean.state["grad_norms"]


def test_one_spike_does_not_blind_the_guard_to_the_next() -> None:
    guard = _guard(128, window=128)
    assert guard.reason_to_skip(1e6, 1.0) is not None
    assert guard.reason_to_skip(3.0, 1.0) is None
    assert guard.reason_to_skip(4.5, 1.0) is not None


def test_a_norm_that_moved_to_another_level_is_believed_after_a_few_steps() -> None:
    guard = _guard(128, window=128)
    passed_over = 0
    while guard.reason_to_skip(3.0, 3.0) is not None:  # 20 deviations above the past.
        passed_over += 1
    assert 2 <= passed_over <= 6
    assert not guard.must_stop


def test_the_past_is_as_long_as_the_window() -> None:
    guard = _guard()
    for step in range(WINDOW):
        guard.reason_to_skip(2.9 - 0.1 * step, 1.0)
    assert guard.state["losses"] == [2.9 - 0.1 * step for step in range(WINDOW)]


def test_enough_in_a_row_give_up_and_one_good_step_begins_anew() -> None:
    guard = _guard(stop_after=3)
    for loss, must_stop in [(99, False), (99, False), (3, False), (99, False), (99, False)]:
        guard.reason_to_skip(loss, 1.0)
        assert guard.must_stop is must_stop
    guard.reason_to_skip(99, 1.0)
    assert guard.must_stop
    assert (guard.skipped_updates, guard.skipped_in_a_row) == (5, 3)


def test_a_restored_guard_judges_as_one_that_went_on() -> None:
    whole, restored = _guard(20), Guard(GuardConfig(window=WINDOW))
    whole.reason_to_skip(99.0, 1.0)
    restored.restore(json.loads(json.dumps(whole.state)))
    chance = random.Random(9)
    for _ in range(200):
        loss, norm = chance.gauss(3.2, 0.3), chance.gauss(1.2, 0.3)
        assert restored.reason_to_skip(loss, norm) == whole.reason_to_skip(loss, norm)
    assert restored.state == whole.state
    assert whole.skipped_updates >= 2


def test_an_old_checkpoint_has_a_past_that_nobody_knows() -> None:
    guard = _guard()
    guard.restore({})
    assert guard.state == Guard(GuardConfig()).state
