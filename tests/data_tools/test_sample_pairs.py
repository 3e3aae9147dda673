"""Tables of sentence pairs: half of the pairs are random, and pairs are sorted by length."""

import shutil
from bisect import bisect_right
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_tools.corpus import open_corpus
from data_tools.errors import InputError
from data_tools.samples import sample_table_writer as writing
from data_tools.samples.build_sample_table import build_sample_table
from data_tools.samples.plan_pairs import Pair, PairMaker, RandomStream, plan_cuts
from tests.data_tools.sample_corpora import (
    EOS,
    LENGTH,
    document_ranges,
    load_table,
    random_documents,
    read_all,
    write_corpus,
    write_mixed_corpus,
)
from tests.data_tools.small_texts import tree_bytes


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory) -> Path:
    return write_mixed_corpus(tmp_path_factory.mktemp("corpus") / "train")


@pytest.fixture
def own_corpus(tmp_path, corpus_folder) -> Path:
    """A copy of the corpus without any table."""
    return shutil.copytree(
        corpus_folder, tmp_path / "train", ignore=shutil.ignore_patterns("samples")
    )


@pytest.fixture(scope="module")
def pairs(corpus_folder):
    """All pairs of the corpus."""
    build_sample_table(corpus_folder, mode="pairs", sequence_length=LENGTH, copies=3)
    with load_table(corpus_folder, "pairs") as table:
        yield table.manifest, read_all(table)


def sentence_starts(folder: Path) -> list[int]:
    with open_corpus(folder) as corpus:
        packs = range(corpus.num_packs)
        return [start for pack in packs for start in corpus.sentence_starts(pack).tolist()]


def test_half_of_the_pairs_are_random_by_count(pairs):
    manifest, found = pairs
    fraction = found.is_random.mean()
    assert len(found.is_random) > 1500
    assert fraction == pytest.approx(0.5, abs=0.03)
    assert manifest.statistics["random_fraction"] == pytest.approx(fraction, abs=1e-6)


def test_a_pair_is_consecutive_in_one_document_or_from_two_documents(corpus_folder, pairs):
    _, found = pairs
    starts = [start for start, _ in document_ranges(corpus_folder)]
    sentences = set(sentence_starts(corpus_folder))
    segments = zip(found.starts.tolist(), found.lengths.tolist(), strict=True)
    both = zip(*[segments] * 2, found.is_random, strict=True)
    num_uncut = 0
    for (a, a_length), (b, b_length), is_random in both:
        same = bisect_right(starts, a) == bisect_right(starts, b)
        assert same != is_random
        if not is_random:
            assert a + a_length <= b
            uncut = a_length + b_length < LENGTH - 3
            assert not uncut or (a + a_length == b and {a, b} <= sentences)
            num_uncut += uncut
    assert num_uncut > 50


def test_random_documents_come_from_the_whole_corpus(corpus_folder, pairs):
    _, found = pairs
    starts = [start for start, _ in document_ranges(corpus_folder)]
    chosen = Counter(
        bisect_right(starts, b) - 1
        for b, is_random in zip(found.starts[1::2].tolist(), found.is_random, strict=True)
        if is_random
    )
    assert len(chosen) > 300
    assert max(chosen.values()) < 20


def test_random_documents_of_one_pack_come_from_several_packs(corpus_folder, pairs):
    _, found = pairs
    with open_corpus(corpus_folder) as corpus:
        first_tokens = [corpus.pack_range(pack)[0] for pack in range(corpus.num_packs)]
    packs = np.searchsorted(first_tokens, found.starts, side="right") - 1
    for pack in range(len(first_tokens)):
        assert len(set(packs[1::2][found.is_random & (packs[0::2] == pack)])) >= 6


def pairs_of(documents: int, **options) -> list[list[Pair]]:
    """The pairs of equal documents of twelve sentences of five tokens."""
    maker = PairMaker(**{"sequence_length": 43, "short_probability": 0.0, **options})
    sentences = range(0, 61, 5)
    return [
        list(maker.pairs(sentences, RandomStream("pairs", n), choose_other=lambda: [100, 105, 110]))
        for n in range(documents)
    ]


def test_a_document_is_split_between_sentences_at_random():
    first = [pairs[0] for pairs in pairs_of(700)]
    sizes = Counter(pair.a_length for pair in first)
    assert set(sizes) == set(range(5, 40, 5))
    assert all(60 < count < 140 for count in sizes.values())


def test_sentences_replaced_by_random_ones_are_used_in_later_pairs():
    for pairs in pairs_of(50):
        used = [
            place
            for pair in pairs
            for start, length in (
                (pair.a_start, pair.a_length),
                (pair.b_start, 0 if pair.is_random else pair.b_length),
            )
            for place in range(start, start + length)
        ]
        assert used == list(range(60))


def test_a_tenth_of_the_documents_get_shorter_pairs():
    for probability in (0.1, 0.5):
        made = pairs_of(2000, short_probability=probability)
        # Sentences of five tokens fill a target of 40 exactly; only a shorter target changes A.
        shorter = [
            pairs[0].b_start + pairs[0].b_length < 40 for pairs in made if not pairs[0].is_random
        ]
        assert np.mean(shorter) == pytest.approx(probability * 34 / 39, abs=0.05)


def test_pairs_fit_and_contain_no_end_of_document_token(corpus_folder, pairs):
    _, found = pairs
    sums = found.lengths[0::2] + found.lengths[1::2] + 3
    assert found.lengths.min() >= 1
    assert sums.max() == LENGTH
    with open_corpus(corpus_folder) as corpus:
        for start, length in zip(found.starts.tolist(), found.lengths.tolist(), strict=True):
            assert EOS not in corpus.read(start, start + length)


def test_pairs_are_sorted_by_padded_length(pairs):
    manifest, found = pairs
    sums = found.lengths[0::2] + found.lengths[1::2] + 3
    padded = [length for length, count in manifest.buckets for _ in range(count)]
    assert len(padded) == manifest.num_samples
    assert [-(-size // 8) * 8 for size in sums.tolist()] == padded
    assert [length for length, _ in manifest.buckets] == sorted(set(padded))


def test_every_document_with_text_is_in_a_pair(corpus_folder, pairs):
    _, found = pairs
    ranges = document_ranges(corpus_folder)
    starts = [start for start, _ in ranges]
    seen = {bisect_right(starts, a) - 1 for a in found.starts[0::2].tolist()}
    assert seen == {n for n, (start, stop) in enumerate(ranges) if stop - start > 1}


def test_copies_pair_the_same_documents_differently(own_corpus, pairs):
    once = build_sample_table(own_corpus, mode="pairs", sequence_length=LENGTH, copies=1)
    manifest, _ = pairs
    assert manifest.num_samples == pytest.approx(3 * once.manifest.num_samples, rel=0.1)
    assert manifest.num_samples != 3 * once.manifest.num_samples


def test_batches_of_one_bucket_have_little_padding(tmp_path):
    documents = random_documents(300, seed=1, most_sentences=80, most_words=45)
    folder = write_corpus(tmp_path / "train", documents, pack_documents=50)
    result = build_sample_table(folder, mode="pairs", sequence_length=512)
    with load_table(folder, "pairs", 512) as table:
        found = read_all(table)
    tokens = found.lengths.sum() + 3 * table.num_samples
    padded = sum(length * count for length, count in table.buckets)
    assert 1 - tokens / padded < 0.02
    assert result.manifest.statistics["padding"] == pytest.approx(1 - tokens / padded, abs=1e-6)
    assert 1 - tokens / (512 * table.num_samples) > 0.1, "without buckets it would be much"


def test_pairs_are_sorted_in_pieces_through_a_file(own_corpus, monkeypatch):
    options = {"mode": "pairs", "sequence_length": LENGTH}
    folder = build_sample_table(own_corpus, **options).folder
    at_once = tree_bytes(folder)
    shutil.rmtree(folder)
    monkeypatch.setattr(writing, "_BLOCK", 7)
    build_sample_table(own_corpus, **options)
    assert tree_bytes(folder) == at_once


def test_truncation_removes_tokens_one_by_one_from_the_longer_text():
    for a in range(1, 30):
        for b in range(1, 30):
            left = [a, b]
            while sum(left) > 20:
                left[0 if left[0] > left[1] else 1] -= 1
            a_cut, b_cut = plan_cuts(a, b, longest=20)
            assert [a - a_cut, b - b_cut] == left


def test_random_draws_are_balanced_and_depend_only_on_their_key():
    rng = [RandomStream("test", number) for number in range(200)]
    draws = [[coin.below(10) for _ in range(100)] for coin in rng]
    assert draws[3] == [coin.below(10) for coin in [RandomStream("test", 3)] for _ in range(100)]
    counts = Counter(value for row in draws for value in row)
    assert set(counts) == set(range(10))
    assert all(1800 < count < 2200 for count in counts.values())
    heads = [RandomStream("heads", number).heads(150) for number in range(500)]
    assert np.mean(heads) == pytest.approx(75, abs=1)
    assert min(heads) < 65 < 85 < max(heads) < 130


def test_pairs_need_a_corpus_with_sentences(tmp_path):
    folder = write_corpus(tmp_path / "train", random_documents(5), sentences=False)
    with pytest.raises(InputError, match="shard the text again with --sentences"):
        build_sample_table(folder, mode="pairs", sequence_length=LENGTH)
