"""The figures of a classifier, against values computed by hand."""

import random

import pytest

from bigtrain.objectives.classification import confusion_figures


def test_two_classes_have_the_figures_of_their_table() -> None:
    # 50 of class no: 40 right; 20 of class yes: 15 right.
    figures = confusion_figures([40, 10, 5, 15], ["no", "yes"])
    assert figures["precision/no"] == pytest.approx(40 / 45)
    assert figures["recall/no"] == pytest.approx(40 / 50)
    assert figures["f1/no"] == pytest.approx(80 / 95)
    assert figures["precision/yes"] == pytest.approx(15 / 25)
    assert figures["recall/yes"] == pytest.approx(15 / 20)
    assert figures["f1/yes"] == pytest.approx(30 / 45)
    assert figures["f1"] == pytest.approx((80 / 95 + 30 / 45) / 2)
    # (TP·TN − FP·FN) / √((TP+FP)(TP+FN)(TN+FP)(TN+FN))
    assert figures["matthews"] == pytest.approx((15 * 40 - 10 * 5) / (25 * 20 * 50 * 45) ** 0.5)


def test_matthews_of_three_classes_is_the_correlation_of_all_pairs() -> None:
    chance = random.Random(0)
    rows = [(chance.randrange(3), chance.randrange(3)) for _ in range(200)]
    rows = [(true, true if chance.random() < 0.5 else guess) for true, guess in rows]
    counts = [0.0] * 9
    for true, guess in rows:
        counts[3 * true + guess] += 1

    def covariance(one: int, other: int) -> float:
        total = 0.0
        for k in range(3):
            means = [sum(row[it] == k for row in rows) / len(rows) for it in (one, other)]
            total += sum(
                ((row[one] == k) - means[0]) * ((row[other] == k) - means[1]) for row in rows
            )
        return total

    expected = covariance(0, 1) / (covariance(0, 0) * covariance(1, 1)) ** 0.5
    assert confusion_figures(counts, "abc")["matthews"] == pytest.approx(expected)


def test_a_class_that_is_never_guessed_has_figures_of_zero() -> None:
    figures = confusion_figures([9, 0, 4, 0], ["no", "yes"])
    assert (figures["precision/yes"], figures["recall/yes"], figures["f1/yes"]) == (0, 0, 0)
    assert figures["matthews"] == 0
    assert figures["f1"] == pytest.approx(18 / 22 / 2)
