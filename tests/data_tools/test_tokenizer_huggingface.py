"""A Hugging Face tokenizer.json decodes texts exactly; its special ids are found or requested."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from data_tools.errors import InputError
from data_tools.tokenizer import load_tokenizer
from tests.data_tools.test_tokenizer import HARD_TEXTS

TEXTS = ["hello <s> world\n\tthe cat sat 中文 é </s> <s> [MASK] theme 1999, the mat\n\n\n" * 3] * 20


def train_byte_level(path, names=("<s>", "</s>", "<pad>", "[MASK]"), *, by_blanks=False):
    """A byte-level BPE. With `by_blanks`, merges can form `<s>`, a special token's text."""
    tokenizer = Tokenizer(models.BPE())
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not by_blanks)]
    if by_blanks:
        steps.insert(0, pre_tokenizers.Split(" ", "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(names),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(path))
    return path


class RecordingTokenizer:
    """A tokenizer that records the texts that it encodes."""

    def __init__(self, tokenizer, asked):
        self.tokenizer, self.asked = tokenizer, asked

    def encode(self, text, **options):
        self.asked.append(text)
        return self.tokenizer.encode(text, **options)


@pytest.fixture(scope="module", params=["usual words", "words by blanks"])
def byte_level(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("byte-level") / "tokenizer.json"
    return load_tokenizer(train_byte_level(path, by_blanks=request.param == "words by blanks"))


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_unusual_texts_are_decoded_exactly(byte_level, text):
    assert byte_level.decode(byte_level.encode(text)) == text
    assert byte_level.exact


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_is_decoded_exactly(byte_level, text):
    assert byte_level.decode(byte_level.encode(text)) == text


@settings(deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=9), st.text("a <s>中").map(str.encode))))
def test_any_bytes_are_decoded_exactly(byte_level, parts):
    content = b"".join(parts)
    ids = byte_level.encode(content.decode("utf-8", "surrogateescape"))
    assert byte_level.decode(ids).encode("utf-8", "surrogateescape") == content
    assert all(ids > 3)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["<s>", "</s>", "[MASK]", "<pad>", " ", "<", "s>", "the"])))
def test_no_text_becomes_a_special_token(byte_level, parts):
    ids = byte_level.encode("".join(parts))
    assert all(ids > 3)
    assert byte_level.decode(ids) == "".join(parts)


def test_a_text_with_many_special_names_is_encoded_quickly(tmp_path):
    path = train_byte_level(tmp_path / "t.json", by_blanks=True)
    library_tokenizer = Tokenizer.from_file(str(path))
    library_tokenizer.encode_special_tokens = True
    assert "<s>" in library_tokenizer.encode("<s> a", add_special_tokens=False).tokens
    tokenizer = load_tokenizer(path)
    text = "<s> " * 20_000
    ids = tokenizer.encode(text)
    assert all(ids > 3)
    assert tokenizer.decode(ids) == text


def test_long_texts_are_neither_truncated_nor_padded(byte_level):
    text = "hello world " * 500
    assert byte_level.decode(byte_level.encode(text)) == text
    assert len(byte_level.encode("the")) < 3


@settings(deadline=None)
@given(st.lists(st.text("a b\n。<s>\udcff", min_size=1)))
def test_encoded_parts_together_decode_to_the_text(byte_level, parts):
    ids = byte_level.encode_parts(parts)
    assert len(ids) == len(parts)
    assert byte_level.decode([i for part in ids for i in part]) == "".join(parts)


def test_sentences_have_the_ids_of_their_text(byte_level):
    parts = ["hello <s> world. ", "the cat sat. ", "中文。", "the mat"]
    ids = byte_level.encode_parts(parts)
    expected = byte_level.encode("".join(parts)).tolist()
    assert [i for part in ids for i in part] == expected
    assert [byte_level.decode(part) for part in ids] == [
        "hello <s> world.",
        " the cat sat.",
        " 中文。",
        "the mat",
    ]


LONG = "hello world,\n\tthe  cat\nsat;\n\n<s> mat \n" * 200


@pytest.mark.parametrize("text", [LONG, "the\n\n\ncat sat\n\n" * 400])
def test_a_text_encoded_in_several_pieces_has_the_same_ids(text, tmp_path, monkeypatch):
    byte_level = load_tokenizer(train_byte_level(tmp_path / "tokenizer.json"))
    expected = byte_level.encode(text).tolist()
    halves = [text[:3333], text[3333:]]
    parts = np.concatenate(byte_level.encode_parts(halves)).tolist()
    monkeypatch.setattr("data_tools.tokenizer.huggingface._LONG_CHARACTERS", 100)
    asked = []
    monkeypatch.setattr(byte_level, "_tokenizer", RecordingTokenizer(byte_level._tokenizer, asked))
    assert byte_level.encode(text).tolist() == expected
    assert np.concatenate(byte_level.encode_parts(halves)).tolist() == parts
    assert max(map(len, asked)) <= 100
    assert byte_level.decode(byte_level.encode("中" * 999)) == "中" * 999


def test_special_ids_are_found_by_their_usual_names(byte_level):
    special = byte_level.special
    assert (special.bos, special.eos, special.pad, special.mask) == (0, 1, 2, 3)
    assert (special.unk, special.cls, special.sep) == (-1, -1, -1)
    assert byte_level.decode([0, *byte_level.encode("the"), 1, 3]) == "the"
    assert (byte_level.kind, byte_level.file_name) == ("huggingface", "tokenizer.json")


def test_the_vocabulary_size_is_the_highest_id_plus_one(tmp_path):
    path = train_byte_level(tmp_path / "tokenizer.json")
    values = json.loads(path.read_text())
    values["model"]["vocab"]["far"] = 500
    path.write_text(json.dumps(values))
    tokenizer = load_tokenizer(path)
    assert tokenizer.vocab_size == 501
    assert (tokenizer.piece(500), tokenizer.piece(499)) == ("far", "")
    assert tokenizer.word_starts().shape == (501,)


def test_an_added_token_whose_id_the_library_would_change_is_refused(tmp_path):
    path = train_byte_level(tmp_path / "tokenizer.json")
    values = json.loads(path.read_text())
    values["added_tokens"].append({**values["added_tokens"][0], "id": 500, "content": "<far>"})
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="<far> has the id 500"):
        load_tokenizer(path)


def test_a_file_with_usual_names_is_copied_byte_for_byte(tmp_path):
    path = train_byte_level(tmp_path / "tokenizer.json")
    assert load_tokenizer(path).content == path.read_bytes()


def test_words_start_at_spaces_punctuation_and_chinese_characters(tmp_path):
    tokenizer = load_tokenizer(train_byte_level(tmp_path / "tokenizer.json"))
    begins = tokenizer.word_starts()
    found = {tokenizer.piece(i): bool(begins[i]) for i in range(tokenizer.vocab_size)}
    assert found["Ġthe"] and found["Ċ"] and found[","] and found["<s>"] and found["Ġ"]
    assert found["ä"] and not found["¸"]  # The first and the second byte of 中.
    assert not found["the"] and not found["t"] and not found["1"]


def test_an_unusual_end_token_must_be_given_and_is_stored_in_the_copy(tmp_path):
    path = train_byte_level(tmp_path / "tokenizer.json", ["<|im_end|>", "<|fin|>"])
    with pytest.raises(InputError, match=r"which token ends a document.*tokenizer_config\.json"):
        load_tokenizer(path)
    with pytest.raises(InputError, match="no token '<end>' for eos"):
        load_tokenizer(path, special={"eos": "<end>"})
    with pytest.raises(InputError, match="no special id is called end"):
        load_tokenizer(path, special={"end": "<|fin|>"})
    chosen = load_tokenizer(path, special={"eos": "<|fin|>", "bos": "<|fin|>"})
    (tmp_path / "copy").write_bytes(chosen.content)
    copy = load_tokenizer(tmp_path / "copy")
    assert copy.special == chosen.special
    assert (copy.special.eos, copy.special.bos, copy.special.pad) == (1, 1, -1)
    assert copy.sha256 == chosen.sha256
    assert copy.content == chosen.content


def test_the_special_ids_are_read_from_tokenizer_config_json(tmp_path):
    path = train_byte_level(tmp_path / "tokenizer.json", ["</s>", "<|fin|>", "<go>"])
    usual = load_tokenizer(path)
    config = {"eos_token": {"content": "<|fin|>"}, "bos_token": "<go>", "pad_token": "<absent>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = load_tokenizer(path)
    assert (usual.special.eos, usual.special.bos) == (0, -1)
    assert (loaded.special.eos, loaded.special.bos, loaded.special.pad) == (1, 2, -1)
    assert loaded.sha256 != usual.sha256


def test_an_eos_token_is_read_from_an_older_config_file_if_no_other_names_it(tmp_path):
    path = train_byte_level(tmp_path / "tokenizer.json", ["<s>", "<|fin|>"])
    roles = {"eos_token": {"content": "<|fin|>"}, "pad_token": "<|fin|>", "bos_token": "<|fin|>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(roles))
    special = load_tokenizer(path).special
    assert (special.bos, special.eos, special.pad) == (0, 1, 1)


def test_added_tokens_that_strip_spaces_are_not_exact(tmp_path):
    path = train_byte_level(tmp_path / "tokenizer.json")
    values = json.loads(path.read_text())
    new_id = load_tokenizer(path).vocab_size
    new = {"id": new_id, "content": "<x>", "special": False, "lstrip": True}
    values["added_tokens"].append({**values["added_tokens"][0], **new})
    path.write_text(json.dumps(values))
    tokenizer = load_tokenizer(path)
    assert tokenizer.decode(tokenizer.encode("a  <x>")) == "a<x>"
    assert not tokenizer.exact


def test_two_usual_names_for_one_special_token_are_reported(tmp_path):
    path = train_byte_level(tmp_path / "tokenizer.json", ["</s>", "<|endoftext|>"])
    with pytest.raises(InputError, match=r"</s> and <\|endoftext\|> could each be eos"):
        load_tokenizer(path)


@pytest.mark.parametrize("special", [True, False])
def test_the_name_of_a_chosen_token_stays_text(tmp_path, special):
    path = train_byte_level(tmp_path / "tokenizer.json", ["␞", "</s>"])
    values = json.loads(path.read_text())
    values["added_tokens"][0]["special"] = special
    path.write_text(json.dumps(values))
    tokenizer = load_tokenizer(path, special={"eos": "␞"})
    assert tokenizer.special.eos == 0
    ids = tokenizer.encode("see ␞ 5</s>")
    assert not {0, 1} & set(ids.tolist())
    assert tokenizer.decode(ids) == "see ␞ 5</s>"


def test_transformers_reads_the_special_tokens_stored_in_a_copy(tmp_path):
    from transformers import PreTrainedTokenizerFast

    path = train_byte_level(tmp_path / "tokenizer.json", ["<|fin|>"])
    tokenizer = load_tokenizer(path, special={"eos": "<|fin|>"})
    (tmp_path / "copy.json").write_bytes(tokenizer.content)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "copy.json"))
    assert theirs("the cat")["input_ids"] == tokenizer.encode("the cat").tolist()


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory):
    path = tmp_path_factory.mktemp("wordpiece") / "tokenizer.json"
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(path))
    return load_tokenizer(path, special={"eos": "[SEP]"})


def test_wordpiece_is_accepted_unchanged_and_is_not_exact(wordpiece):
    assert not wordpiece.exact
    assert wordpiece.decode(wordpiece.encode("The CAT")) == "the cat"
    special = wordpiece.special
    assert (special.pad, special.unk, special.cls, special.sep, special.mask) == (0, 1, 2, 3, 4)
    assert special.eos == special.sep
    assert wordpiece.encode("ж").tolist() == [special.unk]
    assert not set(wordpiece.encode("[MASK] [SEP]").tolist()) & {special.mask, special.sep}


def test_wordpiece_continuations_do_not_start_a_word(wordpiece):
    begins = wordpiece.word_starts()
    names = [wordpiece.piece(i) for i in range(wordpiece.vocab_size)]
    assert any(name.startswith("##") for name in names)
    assert all(begins[i] != name.startswith("##") for i, name in enumerate(names))


def test_raw_bytes_need_a_byte_vocabulary(wordpiece):
    with pytest.raises(InputError, match=r"no tokens for raw bytes.*0xFF"):
        wordpiece.encode("a \udcff")


def test_metaspace_words_start_at_its_marker(tmp_path):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    names = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=names[:2], show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    begins = loaded.word_starts()
    found = {loaded.piece(i): bool(begins[i]) for i in range(loaded.vocab_size)}
    assert found["▁the"] and found["中"] and found[","] and not found["e"]


def test_a_file_that_is_not_a_tokenizer_gives_a_clear_error(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text('{"eos_token": "</s>"}')
    with pytest.raises(InputError, match=r"not a tokenizer\.json"):
        load_tokenizer(path)
    path.write_text('{"model": {"vocab": {"a": 0}}, "added_tokens": [], "version": "9"}')
    with pytest.raises(InputError, match="tokenizers"):
        load_tokenizer(path, special={"eos": "a"})
    with pytest.raises(InputError, match="is a folder"):
        load_tokenizer(tmp_path)
