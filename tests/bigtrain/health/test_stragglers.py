"""Ranks that are slow for long are named once; single slow steps and uniform noise name nobody."""

import random

import pytest

from bigtrain.health.stragglers import WINDOW, Straggler, StragglerRule

ALONE = [0, 1, 2, 3]
"""Four copies of the model with one rank each."""


def _named(
    rule: StragglerRule, steps: int, seconds: dict[int, float], *, ranks: int = 4
) -> list[tuple[int, Straggler]]:
    """Adds steps in which ranks take a second unless given otherwise; who was named, and when."""
    named = []
    for step in range(1, steps + 1):
        _, found = rule.add_step([seconds.get(rank, 1.0) for rank in range(ranks)])
        named += [(step, straggler) for straggler in found]
    return named


def test_a_rank_a_quarter_slower_is_named_once_within_100_steps() -> None:
    rule = StragglerRule(ALONE)
    assert _named(rule, 50, {}) == []
    [(step, straggler)] = _named(rule, 500, {2: 1.25})
    assert 90 <= step <= 100
    assert straggler == Straggler((2,), 1.25)


def test_a_rank_below_the_limit_is_never_named() -> None:
    assert _named(StragglerRule(ALONE), 500, {2: 1.19}) == []


def test_a_rank_is_named_again_only_after_it_has_recovered() -> None:
    rule = StragglerRule(ALONE)
    assert len(_named(rule, 120, {1: 1.5})) == 1
    assert _named(rule, 20, {}) == []  # A short break is no recovery.
    assert _named(rule, 200, {1: 1.5}) == []
    assert _named(rule, WINDOW, {}) == []
    assert len(_named(rule, 200, {1: 1.5})) == 1


def test_one_enormous_step_names_nobody() -> None:
    rule = StragglerRule(ALONE)
    assert _named(rule, 60, {}) == []
    assert _named(rule, 1, {0: 500.0}) == []
    assert _named(rule, 100, {}) == []


def test_a_slow_rank_is_found_although_others_are_interrupted_now_and_then() -> None:
    rule, chance, named = StragglerRule(ALONE), random.Random(3), []
    for _ in range(110):
        times = [chance.gauss(1.0, 0.03) for _ in range(4)]
        times[3] *= 1.35
        if chance.random() < 0.05:
            times[0] = times[1] = times[2] = 2.0
        named += rule.add_step(times)[1]
    assert [each.ranks for each in named] == [(3,)]


def test_noise_that_is_the_same_on_all_ranks_names_nobody() -> None:
    rule, chance = StragglerRule(ALONE), random.Random(4)
    for _ in range(1000):
        assert rule.add_step([chance.gauss(1.0, 0.15) for _ in range(4)])[1] == []


def test_ranks_that_wait_for_each_other_are_named_together() -> None:
    rule = StragglerRule([0, 0, 1, 1, 2, 2])
    [(_, straggler)] = _named(rule, 100, {2: 1.5, 3: 1.48}, ranks=6)
    assert straggler.ranks == (2, 3)
    assert straggler.ratio == pytest.approx(1.5)


def test_the_first_and_last_stage_may_take_longer_than_the_others() -> None:
    # Ranks 0 and 3 are the last stages of two copies, with the output layer.
    assert _named(StragglerRule([0, 1, 1, 0]), 200, {0: 2.0, 2: 2.0}) == []


def test_of_two_ranks_the_faster_one_is_the_norm() -> None:
    [(_, straggler)] = _named(StragglerRule([0, 1]), 100, {1: 1.3}, ranks=2)
    assert straggler == Straggler((1,), 1.3)


def test_the_figures_of_a_step_name_the_slowest_rank_and_the_median() -> None:
    times, _ = StragglerRule(ALONE).add_step([1.0, 1.0, 3.0, 2.0])
    assert (times.slowest_rank, times.seconds, times.median_seconds) == (2, 3.0, 1.0)
    assert times.ratio == 3.0


def test_a_step_without_times_is_no_error() -> None:
    times, found = StragglerRule([0, 1]).add_step([0.0, 0.0])
    assert times.ratio == 1.0
    assert found == []
