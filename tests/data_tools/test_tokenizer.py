"""Every text comes back to the letter, and no text becomes a special token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.errors import InputError
from data_tools.tokenizer import load_tokenizer, train_tokenizer

HARD_TEXTS = [
    "",
    "plain words",
    "  leading blanks",
    "\n\n\tindented\n        deeper\n",
    "line\r\nends\r\n",
    "nul \x00 inside",
    "中文字符，测试。",
    "😀 👨‍👩‍👧 emoji",
    "<s> and </s>, <mask><pad><unk> <cls> <spare_3>",
    "<0x41>",
    "▁",
    "a▁b ▁ c▁▁",
    "e\u0301 and \u00e9, ﬁ, \ufeff, \u2028",
    "trailing blanks   ",
]


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_hard_texts_come_back_exactly(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids.dtype == np.int32


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_exactly(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(alphabet="the cat.\n_1\t é中😀<s>▁"))
def test_no_text_becomes_a_special_token(tokenizer, text):
    assert all(tokenizer.encode(text) > 70)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_remembering_words_changes_no_id(tmp_path, kind):
    documents = [f"def cat_{n}(mat):\n    return mat + {n} * 'the end'\n" for n in range(50)]
    tokenizer = train_tokenizer(documents, tmp_path / "t.model", vocab_size=360, kind=kind)
    for text in [*documents, *HARD_TEXTS]:
        if "▁" not in text:
            expected = tokenizer._processor.encode(text)
            assert tokenizer.encode(text).tolist() == expected


def test_special_ids_are_what_the_format_promises(tokenizer):
    special = tokenizer.special
    ids = (special.pad, special.bos, special.eos, special.unk)
    assert ids == (0, 1, 2, 3)
    assert (special.cls, special.sep, special.mask) == (4, 5, 6)
    assert tokenizer.piece(7) == "<spare_0>"
    assert tokenizer.piece(70) == "<spare_63>"
    assert tokenizer.piece(71) == "<0x00>"


def test_line_ends_are_learned_inside_pieces(tmp_path):
    documents = ["if a:\n    b(c)\nelse:\n    d(e)\n\n\n" * 20]
    tokenizer = train_tokenizer(documents, tmp_path / "t.model", vocab_size=352)
    pieces = [tokenizer.piece(i) for i in range(tokenizer.vocab_size)]
    assert any(piece.endswith(":\n") for piece in pieces)
    assert "▁▁▁▁" in pieces


def test_a_long_line_is_cut_rather_than_dropped(tmp_path):
    tokenizer = train_tokenizer(["abcd " * 300_000], tmp_path / "t.model", vocab_size=336)
    assert len(tokenizer.encode("abcd abcd")) <= 3


def test_equal_texts_train_equal_bytes(tmp_path):
    documents = [f"the cat number {n} sat on mat {n * 7}\n" for n in range(300)]
    for kind in ("bpe", "unigram"):
        first = train_tokenizer(documents, tmp_path / "1.model", vocab_size=355, kind=kind)
        second = train_tokenizer(documents, tmp_path / "2.model", vocab_size=355, kind=kind)
        assert first.sha256 == second.sha256


def test_a_batch_is_its_texts(tokenizer):
    batch = tokenizer.encode_batch(HARD_TEXTS)
    assert [tokenizer.decode(ids) for ids in batch] == HARD_TEXTS


def test_too_large_a_vocabulary_names_the_largest_possible(tmp_path):
    with pytest.raises(InputError, match=r"largest possible is \d+"):
        train_tokenizer(["a few words"], tmp_path / "t.model", vocab_size=100_000)
    with pytest.raises(InputError, match=r"smallest possible is \d+"):
        train_tokenizer(["a few words"], tmp_path / "t.model", vocab_size=100)
    assert list(tmp_path.iterdir()) == []


def test_no_text_and_no_tokenizer_are_said_plainly(tmp_path):
    with pytest.raises(InputError, match="no text to train"):
        train_tokenizer(["", ""], tmp_path / "t.model", vocab_size=400)
    with pytest.raises(InputError, match="no tokenizer at"):
        load_tokenizer(tmp_path / "absent.model")
    (tmp_path / "wrong.model").write_text("not a model")
    with pytest.raises(InputError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path / "wrong.model")
