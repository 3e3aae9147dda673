"""Exact and near duplicates are found at any distance, and other documents are kept."""

import random

import numpy as np
import pytest

from data_tools.cleaning.clean_config import NearDuplicateRules
from data_tools.cleaning.exact_duplicates import digest_text, find_exact_duplicates
from data_tools.cleaning.near_duplicates import Sketcher, find_near_duplicates, hash_shingles
from data_tools.cleaning.word_splitter import split_terms
from tests.data_tools.cleaning.documents import CHINESE_NEWS, change_words, random_prose

RULES = NearDuplicateRules()


def split_rows(rows: np.ndarray, tables: int) -> list[np.ndarray]:
    return np.array_split(rows, tables)


def exact(texts: list[str], *, tables: int = 1, keys_at_once: int = 1 << 20) -> list[bool]:
    rows = np.frombuffer(b"".join(map(digest_text, texts)), "<u8").reshape(-1, 2)
    return find_exact_duplicates(split_rows(rows, tables), keys_at_once=keys_at_once).tolist()


def near(texts, *, rules=RULES, tables=1, keys_at_once=1 << 20, skipped=None) -> list[bool]:
    sketcher = Sketcher(rules)
    sketches = [sketcher.sketch(text) for text in texts]
    bands = np.stack([sketcher.band_keys(sketch) for sketch in sketches])
    values = np.stack([sketcher.empty() if s is None else s for s in sketches])
    if skipped is None:
        skipped = [False] * len(texts)
    found = find_near_duplicates(
        split_rows(bands, tables),
        split_rows(values, tables),
        skipped=np.array(skipped),
        threshold=rules.threshold,
        keys_at_once=keys_at_once,
    )
    return found.tolist()


def jaccard(one: str, other: str, size: int = 5) -> float:
    sets = [set(hash_shingles(split_terms(text), size=size).tolist()) for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize(("tables", "keys_at_once"), [(1, 99), (3, 99), (2, 2)])
def test_the_first_of_equal_documents_is_kept(tables, keys_at_once):
    texts = ["a b", "c", "a  b\n", "A b", "c", "a b", "d"]
    found = exact(texts, tables=tables, keys_at_once=keys_at_once)
    assert found == [False, False, True, False, True, True, False]


def test_an_exact_digest_is_16_bytes():
    assert len(digest_text("x" * 1000)) == 16


@pytest.mark.parametrize(("tables", "keys_at_once"), [(1, 99), (4, 99), (2, 5)])
def test_a_text_with_few_words_changed_is_a_near_duplicate_and_a_different_one_is_not(
    tables, keys_at_once
):
    rng = random.Random(7)
    originals = [random_prose(rng, words=400) for _ in range(6)]
    copies = [change_words(text, rng, count=4) for text in originals]
    halves = [text[: len(text) // 2] + random_prose(rng, words=200) for text in originals]
    for text, copy, half in zip(originals, copies, halves, strict=True):
        assert jaccard(text, copy) > 0.88
        assert jaccard(text, half) < 0.45
    found = near([*originals, *halves, *copies], tables=tables, keys_at_once=keys_at_once)
    assert found == [False] * 12 + [True] * 6


def test_near_duplicates_are_found_with_the_expected_probability():
    rng = random.Random(3)
    pairs = []
    while len(pairs) < 60:
        text = random_prose(rng, words=300)
        copy = change_words(text, rng, count=4)
        if 0.85 < jaccard(text, copy) < 0.92:
            pairs.append((text, copy))
    found = near([text for pair in pairs for text in pair])
    assert not any(found[::2])
    # At 0.85 the bands miss 1 % of pairs, and the estimate (error 0.03) misses about 5 %.
    assert sum(found[1::2]) >= 54


def test_the_bands_find_the_same_candidates_as_datasketch():
    from datasketch import MinHash, MinHashLSH

    rng = random.Random(5)
    texts = [random_prose(rng, words=150) for _ in range(40)]
    texts += [change_words(text, rng, count=rng.randint(1, 8)) for text in texts]
    index = MinHashLSH(num_perm=RULES.num_perm, params=(RULES.bands, RULES.num_perm // RULES.bands))
    sketcher, expected = Sketcher(RULES), []
    for number, text in enumerate(texts):
        values = sketcher.sketch(text)
        sketch = MinHash(hashvalues=values, scheme="affine32")
        met = [texts[other] for other in index.query(sketch)]
        similar = [np.mean(values == sketcher.sketch(other)) >= RULES.threshold for other in met]
        expected.append(any(similar))
        if not any(similar):
            index.insert(number, sketch)
    assert 5 < sum(expected) < 40
    assert near(texts) == expected


def test_chinese_texts_are_compared_by_characters():
    copy = CHINESE_NEWS.replace("李明", "王芳").replace("三百", "四百")
    other = CHINESE_NEWS[::-1]
    assert near([CHINESE_NEWS, other, copy]) == [False, False, True]


def test_case_and_punctuation_are_ignored():
    text = random_prose(random.Random(2))
    assert near([text, text.upper().replace(".", "!")]) == [False, True]


def test_a_document_is_compared_only_with_kept_ones():
    rng = random.Random(11)
    first = random_prose(rng, words=400)
    second = change_words(first, rng, count=6)
    third = change_words(second, rng, count=7)
    assert jaccard(first, second) > 0.84
    assert jaccard(second, third) > 0.83
    assert jaccard(first, third) < 0.75
    assert near([first, second, third]) == [False, True, False]
    assert near([second, first, third]) == [False, True, True]


def test_documents_skipped_drop_nothing():
    text = random_prose(random.Random(4))
    assert near([text, text, text], skipped=[True, False, False]) == [False, False, True]


def test_texts_without_words_and_short_texts_are_not_duplicates():
    found = near(["!!!", "???", "one", "two", "one", "", "one two"])
    assert found == [False, False, False, False, True, False, False]


def test_minhash_values_depend_on_seed_and_shingles():
    text = random_prose(random.Random(9))
    values = Sketcher(RULES).sketch(text)
    assert np.array_equal(values, Sketcher(RULES).sketch(text))
    for other in ({"seed": 2}, {"shingle_words": 4}):
        assert not np.array_equal(values, Sketcher(NearDuplicateRules(**other)).sketch(text))
