"""Sentence pairs as rows: decoded rows occur in the text, and samples are independent."""

import random
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from bigtrain.data.masking import plan_masking, sample_keys
from bigtrain.data.pair_rows import PairRows, check_special_ids, read_pairs
from data_tools.corpus import open_corpus
from data_tools.errors import InputError
from data_tools.samples.build_sample_table import build_sample_table
from data_tools.samples.sample_table import load_sample_table
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from data_tools.tokenizer import SpecialIds, Tokenizer, train_tokenizer

LENGTH = 64
PADDED = 72
"""Wider than any row, so that there always is padding."""
SUBJECTS = ["The cat", "A farmer", "My sister", "The old ship", "Nobody", "一只猫", "老师"]
ENDINGS = [
    " went home.",
    " saw the hills!",
    " slept?",
    " counted to ten.",
    "看见了山。",
    "回家了！",
]


def write_stories(folder: Path, count: int) -> dict[str, str]:
    """Writes documents of a few sentences in English and Chinese."""
    rng = random.Random(5)
    folder.mkdir()
    texts = {}
    for number in range(count):
        sentences = [
            f"{rng.choice(SUBJECTS)} {number}{rng.choice(ENDINGS)}"
            for _ in range(rng.randint(1, 9))
        ]
        texts[f"{number:03d}.txt"] = " ".join(sentences) + "\n"
        (folder / f"{number:03d}.txt").write_text(texts[f"{number:03d}.txt"], encoding="utf-8")
    return texts


class PairCorpus:
    """Documents, their corpus with sentences, and its table of pairs."""

    def __init__(self, folder: Path) -> None:
        self.texts = write_stories(folder / "texts", 60)
        self.tokenizer: Tokenizer = train_tokenizer(
            self.texts.values(), folder / "tokenizer.model", vocab_size=450
        )
        shard_corpus(
            [str(folder / "texts")],
            tokenizer=self.tokenizer.path,
            out=folder / "corpus",
            options=ShardOptions(pack_tokens=300, sentences=True),
        )
        train = folder / "corpus" / "train"
        build_sample_table(train, mode="pairs", sequence_length=LENGTH, copies=2)
        self.corpus = open_corpus(train)
        self.table = load_sample_table(
            train,
            mode="pairs",
            sequence_length=LENGTH,
            corpus_fingerprint=self.corpus.manifest.fingerprint,
        )
        special = self.tokenizer.special
        self.rules = plan_masking(
            self.tokenizer.word_starts(),
            mask_id=special.mask,
            special_ids=[*range(special.mask + 65)],
            max_ngram=3,
        )

    def read(self, samples: list[int], *, epoch: int = 0, width: int = PADDED) -> PairRows:
        return read_pairs(
            self.corpus,
            self.table,
            np.array(samples),
            keys=sample_keys(seed=0, epochs=[epoch] * len(samples), samples=samples),
            special=self.tokenizer.special,
            masking=self.rules,
            padded_length=width,
        )

    def parts(self, row: np.ndarray, types: np.ndarray) -> tuple[str, str]:
        """The decoded texts A and B of a row."""
        special = self.tokenizer.special
        inside = (row != special.cls) & (row != special.sep) & (row != special.pad)
        a, b = (self.tokenizer.decode(row[inside & (types == kind)]) for kind in (0, 1))
        return a, b


@pytest.fixture(scope="module")
def pair_corpus(tmp_path_factory) -> PairCorpus:
    return PairCorpus(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def every_pair(pair_corpus) -> PairRows:
    return pair_corpus.read(list(range(pair_corpus.table.num_samples)))


def test_decoded_pairs_occur_in_the_text(pair_corpus, every_pair):
    shown = Table("kind", "what the model sees", "A", "B", show_lines=True)
    documents = list(pair_corpus.texts.values())
    consecutive = 0
    for number, (row, types, is_random) in enumerate(
        zip(every_pair.labels, every_pair.token_types, every_pair.is_random, strict=True)
    ):
        # Truncation may split a character of a long pair.
        a, b = (part.strip("\ufffd") for part in pair_corpus.parts(row, types))
        assert a and b
        of_a = {text for text in documents if a in text}
        of_b = {text for text in documents if b in text}
        assert of_a and of_b
        if not is_random:
            assert of_a & of_b
            consecutive += any(a + b in text for text in of_a)
        if number % 50 == 0:
            pieces = map(pair_corpus.tokenizer.piece, every_pair.tokens[number].tolist())
            seen = " ".join(piece for piece in pieces if piece != "<pad>")
            shown.add_row("random" if is_random else "next", seen, a, b)
    assert consecutive > 0.5 * (every_pair.is_random == 0).sum()
    Console(width=140, markup=False).print(shown)


def test_a_row_is_cls_a_sep_b_sep_and_padding(pair_corpus, every_pair):
    special = pair_corpus.tokenizer.special
    segments = pair_corpus.table.read(np.arange(pair_corpus.table.num_samples))
    for number, row in enumerate(every_pair.labels):
        (a, b), (a_start, b_start) = (
            values[2 * number : 2 * number + 2].tolist()
            for values in (segments.lengths, segments.starts)
        )
        expected = [
            *[special.cls, *pair_corpus.corpus.read(a_start, a_start + a).tolist(), special.sep],
            *[*pair_corpus.corpus.read(b_start, b_start + b).tolist(), special.sep],
        ]
        padding = PADDED - len(expected)
        assert row.tolist() == expected + [special.pad] * padding
        assert every_pair.token_types[number].tolist() == (
            [0] * (a + 2) + [1] * (b + 1) + [0] * padding
        )
        assert every_pair.padding_mask[number].sum() == len(expected)
        assert every_pair.padding_mask[number][: len(expected)].all()


def test_only_text_is_masked_at_the_right_rate(pair_corpus, every_pair):
    special = pair_corpus.tokenizer.special
    text = every_pair.padding_mask & ~np.isin(every_pair.labels, [special.cls, special.sep])
    assert not every_pair.weights[~text].any()
    assert np.array_equal(every_pair.tokens[~text], every_pair.labels[~text])
    assert every_pair.weights.sum() / text.sum() == pytest.approx(0.15, abs=0.01)
    assert (every_pair.weights.sum(axis=1) >= 1).all()


def test_consecutive_and_random_pairs_are_equally_frequent(every_pair):
    assert every_pair.is_random.mean() == pytest.approx(0.5, abs=0.06)


def test_a_sample_is_the_same_in_another_batch_and_after_a_resume(pair_corpus, every_pair):
    samples = [9, 3, 41, 3]
    again = pair_corpus.read(samples)
    for name in ("tokens", "token_types", "padding_mask", "labels", "weights", "is_random"):
        assert np.array_equal(getattr(again, name), getattr(every_pair, name)[samples])


def test_another_epoch_masks_the_same_pairs_differently(pair_corpus, every_pair):
    samples = list(range(pair_corpus.table.num_samples))
    later = pair_corpus.read(samples, epoch=1)
    assert np.array_equal(later.labels, every_pair.labels)
    assert (later.weights != every_pair.weights).any(axis=1).mean() > 0.9


def test_a_bucket_is_padded_to_its_own_length(pair_corpus):
    first = 0
    for length, count in pair_corpus.table.buckets:
        rows = pair_corpus.read(list(range(first, first + count)), width=length)
        assert rows.tokens.shape == (count, length)
        assert rows.padding_mask.sum(axis=1).min() > length - 8
        first += count


def test_arrays_have_the_dtypes_of_training(every_pair):
    assert every_pair.tokens.dtype == every_pair.labels.dtype == np.int64
    assert every_pair.token_types.dtype == every_pair.is_random.dtype == np.int64
    assert every_pair.weights.dtype == np.float32
    assert every_pair.padding_mask.dtype == np.bool_


def test_a_tokenizer_without_the_special_ids_is_refused(pair_corpus):
    check_special_ids(pair_corpus.tokenizer.special, tokenizer="ours")
    lacking = SpecialIds(pad=-1, bos=1, eos=2, unk=3, cls=4, sep=5, mask=-1)
    with pytest.raises(InputError, match=r"gpt\.json reserves no id for pad, mask"):
        check_special_ids(lacking, tokenizer="gpt.json")
