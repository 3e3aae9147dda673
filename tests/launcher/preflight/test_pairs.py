"""Which pairs of nodes are measured, and what they show."""

from hypothesis import given
from hypothesis import strategies as st

from launcher.preflight.pairs import (
    ROUNDS,
    Pair,
    PairResult,
    best_results,
    good_nodes,
    plan_pairs,
)

RATIO = 0.7


def _measure(nodes: list[str], rates: dict[str, float | None]) -> dict[Pair, PairResult]:
    """All rounds, where a pair is as slow as its slower node, and fails if one of them does."""
    results: dict[Pair, PairResult] = {}
    for _ in range(ROUNDS):
        pairs = plan_pairs(nodes, results, ratio=RATIO)
        used = [node for pair in pairs for node in pair]
        assert len(used) == len(set(used))
        for pair in pairs:
            both = [rates.get(node, 10.0) for node in pair]
            failed = None in both
            rate = None if failed else min(rate for rate in both if rate is not None)
            results[pair] = PairResult(rate, "failed" if failed else "")
    return results


def _names(count: int) -> list[str]:
    return [f"n{number}" for number in range(count)]


def test_good_nodes_are_measured_once() -> None:
    nodes = _names(6)
    assert list(_measure(nodes, {})) == [("n0", "n1"), ("n2", "n3"), ("n4", "n5")]


def test_the_odd_node_is_measured_with_a_good_one() -> None:
    assert list(_measure(_names(5), {})) == [("n0", "n1"), ("n2", "n3"), ("n4", "n0")]


def test_of_three_nodes_all_pairs_are_measured() -> None:
    assert list(_measure(_names(3), {})) == [("n0", "n1"), ("n0", "n2"), ("n1", "n2")]


def test_both_nodes_of_a_slow_pair_are_measured_with_good_ones() -> None:
    results = _measure(_names(6), {"n3": 5.0})
    assert list(results)[3:5] == [("n2", "n0"), ("n3", "n1")]
    assert good_nodes(results, ratio=RATIO) == set(_names(6)) - {"n3"}
    best = best_results(_names(6), results)
    assert best["n3"].rate == 5.0
    assert best["n2"].rate == 10.0


def test_a_node_that_fails_with_every_partner_keeps_its_failure() -> None:
    results = _measure(_names(4), {"n0": None})
    assert best_results(_names(4), results)["n0"] == PairResult(None, "failed")
    assert good_nodes(results, ratio=RATIO) == {"n1", "n2", "n3"}


def test_two_nodes_that_do_not_reach_each_other_stay_unproven() -> None:
    results = _measure(_names(2), {"n0": None})
    assert len(results) == 1
    assert good_nodes(results, ratio=RATIO) == set()


def test_a_single_node_has_no_pair() -> None:
    assert plan_pairs(["n0"], {}, ratio=RATIO) == []


@given(st.integers(3, 24), st.data())
def test_one_bad_node_is_found_and_no_good_one_is_blamed(count: int, data: st.DataObject) -> None:
    nodes = _names(count)
    bad = data.draw(st.sampled_from(nodes))
    for rate in (None, 2.0):
        results = _measure(nodes, {bad: rate})
        assert good_nodes(results, ratio=RATIO) == set(nodes) - {bad}
        assert all(sum(node in pair for pair in results) <= 4 for node in nodes)


@given(st.integers(8, 40), st.data())
def test_a_quarter_of_bad_nodes_is_found(count: int, data: st.DataObject) -> None:
    nodes = _names(count)
    bad = data.draw(st.sets(st.sampled_from(nodes), max_size=count // 4))
    results = _measure(nodes, dict.fromkeys(bad, None))
    assert good_nodes(results, ratio=RATIO) == set(nodes) - bad
