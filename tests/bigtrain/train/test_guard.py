"""The guard skips updates whose loss or gradient norm is not finite or far above recent ones."""

import json
import math
import random
from typing import Any

import pytest

from bigtrain.config.sections import GuardConfig
from bigtrain.train.guard import Guard

WINDOW = 16


def _guard(steps: int = WINDOW, *, seed: int = 1, **config: Any) -> Guard:
    """A guard after ``steps`` steps with a loss of about 3 and a norm of about 1."""
    guard = Guard(GuardConfig(**{"window": WINDOW, **config}))
    rng = random.Random(seed)
    for _ in range(steps):
        assert guard.reason_to_skip(rng.gauss(3, 0.1), rng.gauss(1, 0.1)) is None
    return guard


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_skipped_from_the_first_step(value: float) -> None:
    guard = _guard(0, sigmas=0)
    assert guard.reason_to_skip(value, 1.0) == f"the loss is {value:g}"
    assert guard.reason_to_skip(1.0, value) == f"the gradient's norm is {value:g}"
    assert guard.skipped_updates == 2


def test_a_loss_or_norm_far_above_recent_ones_is_skipped() -> None:
    assert "loss of 4 is" in str(_guard().reason_to_skip(4.0, 1.0))
    assert "gradient's norm of 2 is" in str(_guard().reason_to_skip(3.0, 2.0))
    assert _guard().reason_to_skip(3.3, 1.3) is None


def test_values_far_below_recent_ones_are_not_skipped() -> None:
    assert _guard().reason_to_skip(0.1, 0.01) is None


def test_there_are_no_outliers_before_half_the_window_is_full() -> None:
    assert _guard(WINDOW // 2 - 1).reason_to_skip(100.0, 100.0) is None
    assert _guard(WINDOW // 2).reason_to_skip(100.0, 100.0) is not None


def test_sigmas_of_0_turn_outlier_detection_off() -> None:
    assert _guard(sigmas=0).reason_to_skip(1e9, 1e9) is None


@pytest.mark.parametrize("sigmas", [0, 6])
def test_a_window_of_zeros_is_valid(sigmas: float) -> None:
    guard = Guard(GuardConfig(window=WINDOW, sigmas=sigmas))
    for _ in range(WINDOW):
        assert guard.reason_to_skip(0.0, 0.0) is None
    assert (guard.reason_to_skip(0.0, 1.0) is None) is (sigmas == 0)


def test_rounding_noise_after_constant_values_is_not_an_outlier() -> None:
    guard = Guard(GuardConfig(window=WINDOW))
    for _ in range(WINDOW):
        guard.reason_to_skip(0.5, 0.0)
    assert guard.reason_to_skip(0.5 * (1 + 1e-6), 0.0) is None
    assert guard.reason_to_skip(0.6, 0.0) is not None


def test_values_that_are_not_finite_do_not_enter_the_window() -> None:
    guard, clean = _guard(), _guard()
    for _ in range(5):
        assert guard.reason_to_skip(math.nan, 1.0) is not None
    assert guard.state["losses"] == clean.state["losses"]
    assert guard.state["grad_norms"] == clean.state["grad_norms"]


def test_the_guard_detects_a_second_spike() -> None:
    guard = _guard(128, window=128)
    assert guard.reason_to_skip(1e6, 1.0) is not None
    assert guard.reason_to_skip(3.0, 1.0) is None
    assert guard.reason_to_skip(4.5, 1.0) is not None


def test_a_norm_that_stays_at_a_new_level_is_accepted_after_a_few_steps() -> None:
    guard = _guard(128, window=128)
    skipped = 0
    while guard.reason_to_skip(3.0, 3.0) is not None:  # 20 deviations above the window.
        skipped += 1
    assert 2 <= skipped <= 6
    assert not guard.must_stop


def test_the_window_holds_the_last_values() -> None:
    guard = _guard()
    for step in range(WINDOW):
        guard.reason_to_skip(2.9 - 0.1 * step, 1.0)
    assert guard.state["losses"] == [2.9 - 0.1 * step for step in range(WINDOW)]


def test_consecutive_skips_give_up_and_a_good_step_resets_the_count() -> None:
    guard = _guard(stop_after=3)
    for loss, must_stop in [(99, False), (99, False), (3, False), (99, False), (99, False)]:
        guard.reason_to_skip(loss, 1.0)
        assert guard.must_stop is must_stop
    guard.reason_to_skip(99, 1.0)
    assert guard.must_stop
    assert (guard.skipped_updates, guard.skipped_in_a_row) == (5, 3)


def test_a_restored_guard_decides_like_an_uninterrupted_one() -> None:
    uninterrupted, restored = _guard(20), Guard(GuardConfig(window=WINDOW))
    uninterrupted.reason_to_skip(99.0, 1.0)
    restored.restore(json.loads(json.dumps(uninterrupted.state)))
    rng = random.Random(9)
    for _ in range(200):
        loss, norm = rng.gauss(3.2, 0.3), rng.gauss(1.2, 0.3)
        assert restored.reason_to_skip(loss, norm) == uninterrupted.reason_to_skip(loss, norm)
    assert restored.state == uninterrupted.state
    assert uninterrupted.skipped_updates >= 2


def test_a_checkpoint_without_guard_state_gives_an_empty_window() -> None:
    guard = _guard()
    guard.restore({})
    assert guard.state == Guard(GuardConfig()).state
