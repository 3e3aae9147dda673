"""Encoding and decoding gives every text back exactly, and no text becomes a special token."""

import numpy as np
import pytest
import sentencepiece
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
    "\u0301\u0301 alone, \u20e3",
    "[MASK] [CLS] <|endoftext|>",
    "raw \udcff\udc80 bytes \udce4\udcb8",
    "▁\udcffa b",
]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def trained(request, tmp_path_factory):
    documents = [f"def cat_{n}(mat):\n    return mat + {n} * 'the end'\n" for n in range(50)]
    out = tmp_path_factory.mktemp(request.param) / "t.model"
    return train_tokenizer(documents, out, vocab_size=360, kind=request.param)


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_unusual_texts_are_decoded_exactly(trained, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert ids.dtype == np.int32
    assert trained.exact


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_is_decoded_exactly(trained, text):
    assert trained.decode(trained.encode(text)) == text


@settings(deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=9), st.text("a ▁中\n").map(str.encode))))
def test_any_bytes_are_decoded_exactly(trained, parts):
    content = b"".join(parts)
    ids = trained.encode(content.decode("utf-8", "surrogateescape"))
    assert trained.decode(ids).encode("utf-8", "surrogateescape") == content
    assert all(ids > 70)


def test_a_lone_surrogate_is_refused_and_named(tokenizer):
    with pytest.raises(InputError, match=r"surrogate U\+D83D.*half a character"):
        tokenizer.encode("cut \ud83d off")


@settings(deadline=None)
@given(st.lists(st.text("a b\n。▁\udcff", min_size=1)))
def test_encoded_parts_together_decode_to_the_text(trained, parts):
    ids = trained.encode_parts(parts)
    assert len(ids) == len(parts)
    assert trained.decode([i for part in ids for i in part]) == "".join(parts)


def test_sentences_have_as_many_ids_as_their_text(tokenizer):
    ids = tokenizer.encode_parts(["The cat sat. ", "The dogs saw. ", "Two mats."])
    whole = tokenizer.encode("The cat sat. The dogs saw. Two mats.")
    assert np.concatenate(ids).tolist() == whole.tolist()
    assert tokenizer.decode(ids[1]) == " The dogs saw."


def test_a_long_text_has_the_ids_of_its_words(tokenizer):
    text = "the cat sat on a mat\n" * 60_000
    assert len(text) > 1 << 20
    line = tokenizer.encode("the cat sat on a mat\n").tolist()
    assert tokenizer.encode(text).tolist() == line * 60_000


def test_words_start_at_spaces_punctuation_and_chinese_characters(tmp_path):
    documents = ["the the, theme 中文 中文 中文字\n"] * 60
    tokenizer = train_tokenizer(documents, tmp_path / "t.model", vocab_size=345)
    begins = tokenizer.word_starts()
    found = {tokenizer.piece(i): bool(begins[i]) for i in range(tokenizer.vocab_size)}
    assert begins.shape == (tokenizer.vocab_size,)
    assert begins[:71].all()
    expected = {"▁the": True, "t": False, "m": False, ",": True, "▁": True, "中": True, "文": True}
    assert {piece: found[piece] for piece in expected} == expected
    lead_and_ascii = [found[f"<0x{byte:02X}>"] for byte in (0x0A, 0x41, 0xC3, 0xE4, 0xF0)]
    assert all(lead_and_ascii)
    assert not any(found[f"<0x{byte:02X}>"] for byte in range(0x80, 0xC0))


def test_raw_bytes_are_not_used_for_training(tmp_path):
    clean = train_tokenizer(["the cat sat\n" * 50], tmp_path / "1.model", vocab_size=336)
    dirty = train_tokenizer(["the cat\udcff sat\n" * 50], tmp_path / "2.model", vocab_size=336)
    assert dirty.vocab_size == clean.vocab_size


def test_ids_outside_the_vocabulary_are_refused(tokenizer):
    for token_id in (-1, tokenizer.vocab_size):
        with pytest.raises(InputError, match="outside the vocabulary"):
            tokenizer.decode([token_id])
        with pytest.raises(InputError, match="outside the vocabulary"):
            tokenizer.piece(token_id)


@given(st.text(alphabet="the cat.\n_1\t é中😀<s>▁"))
def test_no_text_becomes_a_special_token(tokenizer, text):
    assert all(tokenizer.encode(text) > 70)


def test_the_cache_of_words_changes_no_id(trained):
    documents = [f"def cat_{n}(mat):\n    return mat + {n} * 'the end'\n" for n in range(50)]
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained.content)
    for text in [*documents, *HARD_TEXTS]:
        if not set("▁\udcff") & set(text):
            assert trained.encode(text).tolist() == processor.encode(text)


def test_special_ids_are_those_of_the_format(tokenizer):
    special = tokenizer.special
    ids = (special.pad, special.bos, special.eos, special.unk)
    assert ids == (0, 1, 2, 3)
    assert (special.cls, special.sep, special.mask) == (4, 5, 6)
    assert tokenizer.piece(7) == "<spare_0>"
    assert tokenizer.piece(70) == "<spare_63>"
    assert tokenizer.piece(71) == "<0x00>"


WITHOUT_SPACES = {
    "chinese": "北京欢迎你，北京大学。" * 30,
    "rare blanks": "北京欢迎你，北京大学。" * 300 + " ",
    "one letter": "a",
    "one blank": " ",
    "one character": "北",
    "digits": "0123456789" * 20,
    "tab": "\t",
}


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("text", WITHOUT_SPACES.values(), ids=WITHOUT_SPACES)
def test_spaces_are_decoded_exactly_after_training_without_spaces(tmp_path, text, kind):
    size = 328 + len(set(text) - {" "})
    tokenizer = train_tokenizer([text], tmp_path / "t.model", vocab_size=size, kind=kind)
    assert tokenizer.exact
    blank = tokenizer.encode(" ")
    assert [tokenizer.piece(i) for i in blank] == ["▁"]
    for hard in [*HARD_TEXTS, "a b\t北京 \n\r\n  0 "]:
        assert tokenizer.decode(tokenizer.encode(hard)) == hard
    assert tokenizer.piece(70) == "<spare_63>"
    assert [tokenizer.piece(i) for i in (71, 326)] == ["<0x00>", "<0xFF>"]


def test_with_spaces_in_the_training_text_no_piece_is_required(tmp_path, monkeypatch):
    texts = ["the cat sat on a mat\n" * 50]
    tokenizer = train_tokenizer(texts, tmp_path / "1.model", vocab_size=345)
    monkeypatch.setattr("data_tools.tokenizer.sentencepiece._required", lambda _: {})
    plain = train_tokenizer(texts, tmp_path / "2.model", vocab_size=345)
    assert tokenizer.sha256 == plain.sha256


def test_a_model_that_is_not_exact_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("data_tools.tokenizer.sentencepiece._required", lambda _: {})
    with pytest.raises(InputError, match="some texts do not decode to themselves"):
        train_tokenizer(["北京" * 50], tmp_path / "t.model", vocab_size=330)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["\n", "\0"])
def test_training_text_of_only_ignored_characters_is_refused(tmp_path, text):
    with pytest.raises(InputError, match="no text to train"):
        train_tokenizer([text], tmp_path / "t.model", vocab_size=328)


def test_an_error_of_sentencepiece_in_training_gives_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot train on this text"):
        train_tokenizer(["\t\n" * 9], tmp_path / "t.model", vocab_size=330, kind="unigram")


def test_line_ends_are_learned_inside_pieces(tmp_path):
    documents = ["if a:\n    b(c)\nelse:\n    d(e)\n\n\n" * 20]
    tokenizer = train_tokenizer(documents, tmp_path / "t.model", vocab_size=352)
    pieces = [tokenizer.piece(i) for i in range(tokenizer.vocab_size)]
    assert any(piece.endswith(":\n") for piece in pieces)
    assert "▁▁▁▁" in pieces


def test_a_long_line_is_split_and_not_dropped(tmp_path):
    tokenizer = train_tokenizer(["abcd " * 300_000], tmp_path / "t.model", vocab_size=336)
    assert len(tokenizer.encode("abcd abcd")) <= 3


def test_training_on_equal_texts_gives_equal_bytes(tmp_path):
    documents = [f"the cat number {n} sat on mat {n * 7}\n" for n in range(300)]
    for kind in ("bpe", "unigram"):
        first = train_tokenizer(documents, tmp_path / "1.model", vocab_size=355, kind=kind)
        second = train_tokenizer(documents, tmp_path / "2.model", vocab_size=355, kind=kind)
        assert first.sha256 == second.sha256


def test_encoding_a_batch_equals_encoding_its_texts(tokenizer):
    batch = tokenizer.encode_batch(HARD_TEXTS)
    assert [tokenizer.decode(ids) for ids in batch] == HARD_TEXTS


def test_too_large_a_vocabulary_names_the_largest_possible(tmp_path):
    with pytest.raises(InputError, match=r"largest possible is \d+"):
        train_tokenizer(["a few words"], tmp_path / "t.model", vocab_size=100_000)
    with pytest.raises(InputError, match=r"smallest possible is \d+"):
        train_tokenizer(["a few words"], tmp_path / "t.model", vocab_size=100)
    assert list(tmp_path.iterdir()) == []


def test_missing_text_and_a_missing_tokenizer_give_clear_errors(tmp_path):
    with pytest.raises(InputError, match="no text to train"):
        train_tokenizer(["", ""], tmp_path / "t.model", vocab_size=400)
    with pytest.raises(InputError, match="no tokenizer at"):
        load_tokenizer(tmp_path / "absent.model")
    (tmp_path / "wrong.model").write_text("not a model")
    with pytest.raises(InputError, match="neither a SentencePiece model"):
        load_tokenizer(tmp_path / "wrong.model")
