"""Every kind of tokenizer is the same after export, or the difference is named."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from bigtrain.convert.tokenizer_files import HARD_TEXTS, differing_texts, write_tokenizer
from data_tools.tokenizer import load_tokenizer, train_tokenizer

TEXTS = ["the cat sat on a mat, Café! 中文 ==== ---- 1999\n\tThe theme: def f(x)\n" * 3] * 20
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_piece(folder):
    """A lossy tokenizer as BERT's, whose end of a document only the file beside it names."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    return save(tokenizer, trainer, folder, {"eos_token": "[SEP]", "bos_token": "[CLS]"})


def byte_level(folder):
    tokenizer = Tokenizer(models.BPE(dropout=0.5))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return save(tokenizer, trainer, folder, {"eos_token": "<|endoftext|>"})


def save(tokenizer, trainer, folder, config):
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(folder / "tokenizer.json")


def unigram(folder):
    return train_tokenizer(TEXTS, folder / "t.model", vocab_size=360, kind="unigram")


def chinese_unigram(folder):
    texts = ["北京欢迎你，北京大学。" * 30]  # Without the letters of its own special ids.
    return train_tokenizer(texts, folder / "t.model", vocab_size=337, kind="unigram")


def bpe(folder):
    return train_tokenizer(TEXTS, folder / "t.model", vocab_size=372)


@pytest.mark.parametrize("make", [word_piece, byte_level, unigram, chinese_unigram, bpe])
def test_an_exported_tokenizer_has_our_ids_and_our_texts(tmp_path, capfd, make):
    ours, out = make(tmp_path), tmp_path / "out"
    out.mkdir()
    write_tokenizer(ours, out, max_length=64)
    assert differing_texts(ours, out, [*HARD_TEXTS, *TEXTS[:1], "=" * 999, "", "▁"]) == []
    assert ours.exact == (make is not word_piece)
    assert "roles" not in "".join(capfd.readouterr())
    assert "roles" not in (out / "tokenizer.json").read_text("utf-8")


def test_equally_good_ways_to_cut_a_word_are_chosen_alike(tmp_path):
    rules = ["=" * n + "-" * (n % 7) + " " for n in range(1, 60)]
    path = tmp_path / "t.model"
    ours = train_tokenizer(rules * 9, path, vocab_size=350, kind="unigram")
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(ours, out, max_length=64)
    assert differing_texts(ours, out, [*rules, *("=" * n for n in range(60, 400))]) == []


def test_an_exported_tokenizer_keeps_its_special_ids(tmp_path):
    ours, out = word_piece(tmp_path), tmp_path / "out"
    out.mkdir()
    write_tokenizer(ours, out, max_length=64)
    assert load_tokenizer(out / "tokenizer.json").special == ours.special


def test_other_ids_are_told_from_other_text(tmp_path):
    ours, out = byte_level(tmp_path), tmp_path / "out"
    out.mkdir()
    write_tokenizer(ours, out, max_length=64)
    path = out / "tokenizer.json"
    values = json.loads(path.read_text("utf-8"))
    merges, decoder = values["model"]["merges"], values["decoder"]
    values["model"]["merges"] = []
    path.write_text(json.dumps(values), "utf-8")
    (line,) = differing_texts(ours, out, ["(the cat"])
    assert line.startswith("ids of '(the cat': from id 1 on, after '('")
    values["model"]["merges"], values["decoder"] = merges, {**decoder, "type": "Fuse"}
    path.write_text(json.dumps(values), "utf-8")
    (line,) = differing_texts(ours, out, ["the cat"])
    assert line == "decoded text of 'the cat': from character 3 on, ' cat' became 'Ġcat'"
