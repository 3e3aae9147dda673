"""Masking: rates, whole words, and results that do not depend on the batch."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.data.masking import MaskedRows, MaskingRules, mask_tokens, plan_masking, sample_keys

VOCAB_SIZE, FIRST_WORD = 1000, 71
PAD, CLS, SEP, MASK = 0, 4, 5, 6
STARTS = np.arange(VOCAB_SIZE) % 3 != 0
"""Two of three ids begin a word."""


def rules(**changes) -> MaskingRules:
    options = {"mask_id": MASK, "special_ids": [*range(FIRST_WORD), -1], **changes}
    return plan_masking(options.pop("word_starts", STARTS), **options)


def random_rows(count: int, width: int = 128, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.integers(FIRST_WORD, VOCAB_SIZE, (count, width))
    rows[:, 0] = CLS
    for row in rows:
        middle, end = sorted(rng.choice(np.arange(2, width), 2, replace=False))
        row[middle] = row[end] = SEP
        row[end + 1 :] = PAD
    return rows


def keys_of(count: int, *, seed: int = 0, epoch: int = 0, first: int = 0) -> np.ndarray:
    return sample_keys(seed=seed, epochs=[epoch] * count, samples=range(first, first + count))


def words_of(row: np.ndarray, word_starts: np.ndarray) -> list[list[int]]:
    """The positions of each word of a row, from a plain loop."""
    words: list[list[int]] = []
    inside = False
    for place, token in enumerate(row.tolist()):
        if token < FIRST_WORD:
            inside = False
            continue
        if inside and not word_starts[token]:
            words[-1].append(place)
        else:
            words.append([place])
        inside = True
    return words


@pytest.fixture(scope="module", params=[1, 3])
def masked(request) -> tuple[np.ndarray, MaskedRows]:
    """Many rows before and after masking, by words and by n-grams."""
    rows = random_rows(3000)
    return rows, mask_tokens(rows, keys=keys_of(3000), rules=rules(max_ngram=request.param))


def test_fifteen_percent_of_the_text_are_targets(masked):
    rows, result = masked
    text = (rows >= FIRST_WORD).sum(axis=1)
    chosen = result.weights.sum(axis=1)
    assert chosen.sum() / text.sum() == pytest.approx(0.15, abs=0.004)
    wanted = np.maximum(1, np.round(0.15 * text))
    assert (chosen[text > 30] <= wanted[text > 30]).all()
    assert (chosen == wanted).mean() > 0.95


def test_80_percent_of_the_targets_are_masked_10_replaced_and_10_kept(masked):
    rows, result = masked
    chosen = result.weights == 1
    seen, truth = result.inputs[chosen], rows[chosen]
    assert chosen.sum() > 20_000
    assert (seen == MASK).mean() == pytest.approx(0.8, abs=0.01)
    assert (seen == truth).mean() == pytest.approx(0.1, abs=0.01)
    assert ((seen != truth) & (seen != MASK)).mean() == pytest.approx(0.1, abs=0.01)


def test_other_tokens_are_unchanged_and_labels_are_the_original_tokens(masked):
    rows, result = masked
    untouched = result.weights == 0
    assert np.array_equal(result.inputs[untouched], rows[untouched])
    assert np.array_equal(result.labels, rows)
    assert set(np.unique(result.weights)) == {0.0, 1.0}
    assert not result.weights[rows < FIRST_WORD].any()


def test_random_tokens_are_not_special_and_cover_the_vocabulary(masked):
    rows, result = masked
    replaced = (result.inputs != rows) & (result.inputs != MASK)
    assert result.inputs[replaced].min() >= FIRST_WORD
    counts = Counter(result.inputs[replaced].tolist())
    assert len(counts) > 850
    assert max(counts.values()) < 20


def test_all_tokens_of_a_word_are_masked_together(masked):
    rows, result = masked
    long_words = 0
    for row, weights in zip(rows, result.weights, strict=True):
        for word in words_of(row, STARTS):
            assert len(set(weights[word])) == 1
            long_words += len(word) > 1 and bool(weights[word[0]])
    assert long_words > 1000


def test_all_positions_are_masked_equally_often():
    rows = np.tile(np.array([CLS, *range(FIRST_WORD, FIRST_WORD + 100), SEP]), (4000, 1))
    every = np.ones(VOCAB_SIZE, dtype=bool)
    for max_ngram in (1, 3):
        settings_ = rules(word_starts=every, max_ngram=max_ngram)
        result = mask_tokens(rows, keys=keys_of(4000), rules=settings_)
        by_place = result.weights[:, 1:-1].mean(axis=0)
        assert by_place == pytest.approx(0.15, abs=0.03)


def test_each_chinese_token_is_a_word():
    # As in a tokenizer: 中 and 文 start words, the Latin suffix does not.
    word_starts = np.ones(VOCAB_SIZE, dtype=bool)
    word_starts[100] = False
    chinese = np.tile(np.array([CLS, *[98, 99] * 20, SEP]), (200, 1))
    latin = np.tile(np.array([CLS, *[98, 100] * 20, SEP]), (200, 1))
    settings_ = rules(word_starts=word_starts)
    weights = mask_tokens(chinese, keys=keys_of(200), rules=settings_).weights[:, 1:-1]
    together = mask_tokens(latin, keys=keys_of(200), rules=settings_).weights[:, 1:-1]
    assert (weights[:, 0::2] != weights[:, 1::2]).mean() > 0.2
    assert np.array_equal(together[:, 0::2], together[:, 1::2])


def test_the_frequency_of_masked_n_grams_is_proportional_to_1_over_n():
    rows = np.tile(np.array([CLS, *[FIRST_WORD] * 2000, SEP]), (200, 1))
    every = np.ones(VOCAB_SIZE, dtype=bool)
    settings_ = rules(word_starts=every, max_ngram=3, masked_fraction=0.02)
    weights = mask_tokens(rows, keys=keys_of(200), rules=settings_).weights
    runs = Counter(
        len(run) for row in weights.astype(int) for run in "".join(map(str, row)).split("0") if run
    )
    share = {n: runs[n] / sum(runs.values()) for n in (1, 2, 3)}
    # 6/11, 3/11 and 2/11, not exactly, because adjacent runs merge.
    assert share == pytest.approx({1: 6 / 11, 2: 3 / 11, 3: 2 / 11}, abs=0.04)


def test_no_masked_n_gram_crosses_a_separator():
    rows = np.tile(np.array([CLS, *[FIRST_WORD, SEP] * 200]), (300, 1))
    every = np.ones(VOCAB_SIZE, dtype=bool)
    ngrams = mask_tokens(rows, keys=keys_of(300), rules=rules(word_starts=every, max_ngram=5))
    text = ngrams.weights[:, 1::2]
    neighbours = (text[:, 1:] * text[:, :-1]).mean()
    assert neighbours == pytest.approx(0.15**2, abs=0.004), "words must be chosen independently"


def test_a_row_of_one_long_word_has_a_target():
    word_starts = np.zeros(VOCAB_SIZE, dtype=bool)
    row = np.array([[CLS, 80, 81, 82, SEP, 90, 91, SEP, PAD]])
    result = mask_tokens(row, keys=keys_of(1), rules=rules(word_starts=word_starts))
    assert result.weights.tolist() == [[0, 0, 0, 0, 0, 1, 1, 0, 0]]


def test_a_row_without_text_has_no_targets():
    row = np.array([[CLS, SEP, SEP, PAD]])
    result = mask_tokens(row, keys=keys_of(1), rules=rules())
    assert not result.weights.any()
    assert np.array_equal(result.inputs, row)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_sample_is_masked_the_same_in_any_batch(data):
    rows, keys = random_rows(12, 48), keys_of(12)
    full = mask_tokens(rows, keys=keys, rules=rules(max_ngram=3))
    some = data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=12))
    part = mask_tokens(rows[some], keys=keys[some], rules=rules(max_ngram=3))
    assert np.array_equal(part.inputs, full.inputs[some])
    assert np.array_equal(part.weights, full.weights[some])


def test_another_seed_epoch_or_sample_is_masked_differently():
    rows = np.tile(random_rows(1, 512), (30, 1))
    first = mask_tokens(rows, keys=keys_of(30), rules=rules())
    for other in (keys_of(30, seed=1), keys_of(30, epoch=1), keys_of(30, first=30)):
        again = mask_tokens(rows, keys=other, rules=rules())
        assert (first.weights != again.weights).any(axis=1).all()
    assert len({row.tobytes() for row in first.weights}) == 30


def test_keys_are_unique():
    keys = sample_keys(seed=3, epochs=[0, 0, 1, 1], samples=[0, 1, 0, 1])
    assert keys.shape == (4, 2) and keys.dtype == np.uint64
    assert len({key.tobytes() for key in keys}) == 4


def test_a_known_row_is_masked_as_in_every_version():
    rows = np.arange(FIRST_WORD, FIRST_WORD + 60)[None]
    result = mask_tokens(rows, keys=keys_of(1, seed=3, epoch=2), rules=rules(max_ngram=3))
    places = np.flatnonzero(result.weights[0])
    assert places.tolist() == [27, 28, 29, 30, 31, 32, 42, 43, 59]
    assert result.inputs[0][places].tolist() == [6, 880, 6, 6, 102, 6, 6, 6, 6]
