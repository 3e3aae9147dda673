"""Only words that would become a special token are split; all other texts keep their ids."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from data_tools.tokenizer import load_tokenizer
from data_tools.tokenizer.huggingface import encoder_of

NAMES = ["[UNK]", "[SEP]", "[MASK]"]
WORDS = {name: i for i, name in enumerate([*NAMES, "a", "[", "##a", "SEP]", "##]"])}
SCORES = [("<unk>", 0.0), ("[SEP]", 0.0), *((letter, -2.0) for letter in "\u2581axy<>unk")]
SPELLED = ["[MASK][MASK] [SEP]a", "a [MASK]é [SEP] a", "x <unk> y", "<unk>a", "a[SEP]", "[SEP]]a"]


def load(model, splitter, names, folder):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = splitter
    tokenizer.add_special_tokens(names)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "[SEP]"}))
    return load_tokenizer(folder / "tokenizer.json")


def word_level(folder):
    model = models.WordLevel(WORDS, "[UNK]")
    return load(model, pre_tokenizers.WhitespaceSplit(), NAMES, folder)


def word_piece(folder):
    model = models.WordPiece(WORDS, unk_token="[UNK]")
    return load(model, pre_tokenizers.WhitespaceSplit(), NAMES, folder)


def unigram(folder):
    model = models.Unigram(SCORES, unk_id=0, byte_fallback=False)
    return load(model, pre_tokenizers.Metaspace(), ["<unk>", "[SEP]"], folder)


@pytest.mark.parametrize("make", [word_level, word_piece, unigram])
def test_a_text_without_a_special_token_keeps_the_ids_of_the_file(make, tmp_path):
    ours = make(tmp_path)
    as_it_is = encoder_of(json.loads(ours.content), ours.path)
    forbidden = set(ours.special_ids()) - {ours.special.unk}
    kept = [text for text in SPELLED if not forbidden & set(as_it_is(text))]
    assert len(kept) >= 2
    assert [ours.encode(text).tolist() for text in kept] == [as_it_is(text) for text in kept]


@pytest.mark.parametrize("make", [word_level, word_piece, unigram])
def test_text_of_a_special_token_is_split_the_same_in_the_exported_file(make, tmp_path):
    ours = make(tmp_path)
    exported = encoder_of(ours.tokenizer_json(), ours.path)
    forbidden = set(ours.special_ids()) - {ours.special.unk}
    for text in SPELLED:
        assert not forbidden & set(ours.encode(text).tolist())
        assert exported(text) == ours.encode(text).tolist()


def test_the_ids_of_special_names_in_text_are_fixed(tmp_path):
    assert word_level(tmp_path).encode("a [SEP] b[SEP] [MASK][MASK]").tolist() == [3, 4, 6, 0, 0]
    assert word_piece(tmp_path).encode("a [SEP]a [MASK]é").tolist() == [3, 4, 6, 5, 0]
    assert unigram(tmp_path).encode("x <unk>").tolist() == [2, 4, 2, 0]
