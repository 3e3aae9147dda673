"""An exported tokenizer gives the same ids for every kind of call, or its export is refused."""

import json

import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from bigtrain.convert.families import ExportError
from bigtrain.convert.tokenizer_check import compare_tokenizers
from bigtrain.convert.tokenizer_files import write_tokenizer
from data_tools.tokenizer import HARD_TEXTS, load_tokenizer, train_tokenizer
from tests.data_tools.test_tokenizer_sentencepiece import AS_IT_IS, train_usual_model

TEXTS = ["the cat sat on a mat, Café! 中文 ==== ---- 1999\n\tThe theme: def f(x)\n" * 3] * 20
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_piece(folder):
    """A lossy tokenizer like BERT's; only tokenizer_config.json names its end-of-document token."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return save(tokenizer, trainer, folder, {"eos_token": "[SEP]", "bos_token": "[CLS]"})


def byte_level(folder, special=("<|endoftext|>",), processor=None, **options):
    tokenizer = Tokenizer(models.BPE(dropout=0.5))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, **options)
    tokenizer.decoder = decoders.ByteLevel()
    if processor:
        tokenizer.post_processor = processor
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=9)
    return save(tokenizer, trainer, folder, {"eos_token": special[-1]})


def with_begin(folder):
    """A tokenizer like Llama 3's, which starts every text with a special token by default."""
    processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return byte_level(folder, ("<bos>", "</s>"), processor)


def roberta(folder):
    processor = processors.RobertaProcessing(("</s>", 5), ("<s>", 0))
    special = ("<s>", "[CLS]", "[SEP]", "<mask>", "<pad>", "</s>")
    return byte_level(folder, special, processor)


def metaspace_unigram(folder):
    """A tokenizer like T5's: `</s>` is a piece with a score, and ends every text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return save(tokenizer, trainer, folder, {"eos_token": "</s>"})


def whole_words(folder):
    """A tokenizer that splits at spaces, so that a text can contain the word `[SEP]`."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    return save(tokenizer, trainer, folder, {"eos_token": "[SEP]"})


def added_tokens(folder):
    tokenizer = byte_level(folder)
    values = json.loads(tokenizer.content)
    for number, flags in enumerate([{"lstrip": True}, {"rstrip": True}, {"normalized": True}]):
        token = {**values["added_tokens"][0], "special": False, **flags}
        values["added_tokens"].append(
            {**token, "id": tokenizer.vocab_size + number, "content": f"<{number}>"}
        )
    (folder / "tokenizer.json").write_text(json.dumps(values))
    return load_tokenizer(folder / "tokenizer.json")


def save(tokenizer, trainer, folder, config):
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(folder / "tokenizer.json")


def unigram(folder):
    return train_tokenizer(TEXTS, folder / "t.model", vocab_size=360, kind="unigram")


def chinese_unigram(folder):
    texts = ["北京欢迎你，北京大学。" * 30]  # Does not contain the letters of the special tokens.
    return train_tokenizer(texts, folder / "t.model", vocab_size=337, kind="unigram")


def bpe(folder):
    return train_tokenizer(TEXTS, folder / "t.model", vocab_size=372)


def llama_2(folder):
    return load_tokenizer(train_usual_model(folder / "t.model", model_type="bpe", **AS_IT_IS))


def with_symbols(folder):
    controls = ["<pad>", "<cls>", "<sep>", "<mask>"]
    options = {"control_symbols": controls, "user_defined_symbols": ["<|im|>"]}
    return load_tokenizer(train_usual_model(folder / "t.model", model_type="bpe", **options))


MAKERS = [
    word_piece,
    byte_level,
    with_begin,
    roberta,
    metaspace_unigram,
    whole_words,
    added_tokens,
    unigram,
    chinese_unigram,
    bpe,
    llama_2,
    with_symbols,
]
NOT_EXACT = [word_piece, metaspace_unigram, whole_words, added_tokens, with_symbols]
BERTS = [word_piece, roberta, bpe, with_symbols]
EXTRA = ["=" * 999, "", "▁", "a <0> b <1>  c <2>d", "a </s> b[SEP] [SEP] ", "<|im|> x <|im|></s>"]


def differences(ours, folder, kind="gpt", texts=(*HARD_TEXTS, TEXTS[0], *EXTRA)):
    return compare_tokenizers(ours, folder, texts, kind=kind).wrong


def write(ours, folder, kind="gpt"):
    out = folder / "out"
    out.mkdir()
    write_tokenizer(ours, out, kind=kind, max_length=64)
    return out


@pytest.mark.parametrize("make", MAKERS)
def test_an_exported_gpt_tokenizer_gives_the_same_ids_and_texts(tmp_path, capfd, make):
    ours = make(tmp_path)
    assert ours.exact == (make not in NOT_EXACT)
    out = write(ours, tmp_path)
    assert differences(ours, out) == []
    assert "roles" not in "".join(capfd.readouterr())
    assert "roles" not in (out / "tokenizer.json").read_text("utf-8")


@pytest.mark.parametrize("make", BERTS)
def test_an_exported_bert_tokenizer_gives_the_samples_of_training(tmp_path, make):
    from transformers import AutoTokenizer

    ours = make(tmp_path)
    out = write(ours, tmp_path, "bert")
    assert differences(ours, out, "bert") == []
    theirs, special = AutoTokenizer.from_pretrained(out), ours.special
    found = theirs("the cat", "a mat")
    one, two = (ours.encode(text).tolist() for text in ("the cat", "a mat"))
    assert found["input_ids"] == [special.cls, *one, special.sep, *two, special.sep]
    assert found["token_type_ids"] == [0] * (len(one) + 2) + [1] * (len(two) + 1)
    masked = theirs(f"the {theirs.mask_token}", add_special_tokens=False)["input_ids"]
    assert masked == [*ours.encode("the").tolist(), special.mask]


def test_a_gpt_starts_a_text_with_the_end_of_document_token(tmp_path):
    from transformers import AutoTokenizer

    ours = with_begin(tmp_path)
    theirs = AutoTokenizer.from_pretrained(write(ours, tmp_path))
    assert ours.special.bos == 0
    assert theirs.bos_token_id == theirs.eos_token_id == theirs.pad_token_id == 1
    assert theirs("the cat")["input_ids"] == ours.encode("the cat").tolist()


def test_ties_between_splits_of_a_word_are_resolved_equally(tmp_path):
    rules = ["=" * n + "-" * (n % 7) + " " for n in range(1, 60)]
    path = tmp_path / "t.model"
    ours = train_tokenizer(rules * 9, path, vocab_size=350, kind="unigram")
    texts = [*rules, *("=" * n for n in range(60, 400))]
    found = compare_tokenizers(ours, write(ours, tmp_path), texts, kind="gpt")
    assert (found.wrong, found.tolerated) == ([], [])


def test_an_exported_tokenizer_keeps_its_special_ids(tmp_path):
    ours = word_piece(tmp_path)
    out = write(ours, tmp_path, "bert")
    assert load_tokenizer(out / "tokenizer.json").special == ours.special


def test_a_tokenizer_that_transformers_cannot_represent_is_refused(tmp_path):
    path = train_usual_model(tmp_path / "t.model", treat_whitespace_as_suffix=True)
    with pytest.raises(ExportError, match=r"no tokenizer\.json gives the ids"):
        write(load_tokenizer(path), tmp_path)


def change_files(out, change):
    path = out / "tokenizer.json"
    values = json.loads(path.read_text("utf-8"))
    change(values)
    path.write_text(json.dumps(values), "utf-8")


def test_differing_ids_and_differing_texts_are_distinguished(tmp_path):
    ours = byte_level(tmp_path)
    out = write(ours, tmp_path)
    merges = json.loads((out / "tokenizer.json").read_text("utf-8"))["model"]["merges"]
    change_files(out, lambda values: values["model"].update(merges=[]))
    line = differences(ours, out, texts=["(the cat"])[0]
    assert line.startswith("ids of '(the cat': from id 1 on, after '('")
    change_files(out, lambda values: values["model"].update(merges=merges))
    change_files(out, lambda values: values["decoder"].update(type="Fuse"))
    (line,) = differences(ours, out, texts=["the cat"])
    assert line == "decoded text of 'the cat': from character 3 on, ' cat' became 'Ġcat'"


def without_ends(values):
    values["post_processor"]["single"] = [{"Sequence": {"id": "A", "type_id": 0}}]


def without_last_end(values):
    values["post_processor"]["pair"].pop()


def of_one_type(values):
    values["post_processor"]["pair"][-1]["SpecialToken"]["type_id"] = 0


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (without_ends, "the default call of"),
        (without_last_end, "a pair of"),
        (of_one_type, "other token types"),
        (without_ends, "in a padded batch"),
        (without_ends, "cut to"),
    ],
)
def test_a_tokenizer_call_that_differs_from_training_is_named(tmp_path, change, line):
    ours = word_piece(tmp_path)
    out = write(ours, tmp_path, "bert")
    change_files(out, change)
    assert any(line in found for found in differences(ours, out, "bert", ["the cat", "a mat on"]))


def test_special_tokens_that_stay_text_are_named(tmp_path):
    ours = bpe(tmp_path)
    out = write(ours, tmp_path)
    config = json.loads((out / "tokenizer_config.json").read_text())
    (out / "tokenizer_config.json").write_text(json.dumps({**config, "split_special_tokens": True}))
    found = differences(ours, out, texts=["the cat"])
    assert "the eos token '</s>' gives" in " ".join(found)
    assert "a chat template gives" in found[-1]
