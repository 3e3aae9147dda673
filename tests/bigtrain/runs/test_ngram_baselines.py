"""N-gram baselines equal those of a simple count."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from bigtrain.runs.ngram_baselines import count_baselines
from data_tools.corpus import open_corpus


def test_both_baselines_equal_those_of_a_simple_count(corpus: Path) -> None:
    with open_corpus(corpus / "train") as train, open_corpus(corpus / "validation") as held_out:
        found = count_baselines(train, held_out, sequence_length=32, samples=13)
        tokens = train.read(0, train.num_tokens).tolist()
        measured = held_out.read(0, 13 * 32 + 1).tolist()
    single, vocabulary = Counter(tokens), 500
    followers: dict[int, Counter[int]] = {}
    for before, after in pairwise(tokens):
        followers.setdefault(before, Counter())[after] += 1
    unigram = bigram = 0.0
    for before, after in pairwise(measured):
        smoothed = (single[after] + 1) / (len(tokens) + vocabulary)
        seen = followers.get(before, Counter())
        paired = (seen[after] + max(1, len(seen)) * smoothed) / (seen.total() + max(1, len(seen)))
        unigram -= math.log(smoothed) / (13 * 32)
        bigram -= math.log(paired) / (13 * 32)
    assert found.unigram == pytest.approx(unigram, rel=1e-9)
    assert found.bigram == pytest.approx(bigram, rel=1e-9)
    assert found.training_tokens == len(tokens)
    assert found.bigram < found.unigram < math.log(500)
