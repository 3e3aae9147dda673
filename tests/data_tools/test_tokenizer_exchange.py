"""A tokenizer.json has the ids of every SentencePiece model that `data shard` accepts."""

import random

import pytest
import sentencepiece

from data_tools.errors import InputError
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.tokenizer import HARD_TEXTS, check_exportable, load_tokenizer
from data_tools.tokenizer.huggingface import encoder_of
from tests.data_tools.test_tokenizer_sentencepiece import AS_IT_IS, train_usual_model

BPE = {"model_type": "bpe"}
SYMBOLS = {"user_defined_symbols": ["<|im|>", "<|im_start|>", "##", "a c"]}
MODELS = {
    "bpe": {**BPE, **AS_IT_IS},
    "bpe without a blank in front": {**BPE, **AS_IT_IS, "add_dummy_prefix": False},
    "bpe with symbols": {**BPE, **AS_IT_IS, **SYMBOLS},
    "bpe with <s> as a symbol": {**BPE, **AS_IT_IS, "user_defined_symbols": ["<s>", "<|im|>"]},
    "bpe without extra blanks": {**BPE, "normalization_rule_name": "identity"},
    "bpe nmt_nfkc": BPE,
    "bpe nmt_nfkc with all blanks": {**BPE, "remove_extra_whitespaces": False},
    "bpe nfkc": {**BPE, "normalization_rule_name": "nfkc"},
    "bpe nmt_nfkc_cf": {**BPE, "normalization_rule_name": "nmt_nfkc_cf", **SYMBOLS},
    "unigram": AS_IT_IS,
    "unigram with symbols": {**AS_IT_IS, **SYMBOLS},
    "unigram nmt_nfkc": {},
    "unigram as T5's": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "char": {"model_type": "char", **SYMBOLS},
}
TEXTS = [
    *HARD_TEXTS,
    "",
    "<|im|>",
    " <|im|> a<|im|>",
    "<|im|><s><|im|><0x0A><|im|></s>",
    "<|im_start|>user\nhello<|im|> #####a ca c",
    *("=" * n + " " * n for n in range(1, 40)),
    # Graphemes of several characters: decomposed, half-width, with marks in any order.
    "Vie\u0323\u0302t \u1112\u1161\u11ab \uff76\uff9e E\u0301 TM\ufe0f Straße İstanbul ΣΑΣ ﬁ ①",
    "\u05e9\u05c1\u05b8 \u05db\u05bc\u05b9 \u0645\u0651\u064e \u064a\u0654\u064e",
]


@pytest.fixture(params=MODELS)
def sp_tokenizer(request, tmp_path):
    return load_tokenizer(train_usual_model(tmp_path / "t.model", **MODELS[request.param]))


def made_of_pieces(processor, count=500):
    generator = random.Random(1)
    pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
    for _ in range(count):
        chosen = generator.choices(pieces, k=generator.randint(1, 12))
        yield "".join(chosen).replace("▁", " ")


def test_a_tokenizer_json_has_the_ids_of_the_model(sp_tokenizer):
    processor = sentencepiece.SentencePieceProcessor(model_proto=sp_tokenizer.content)
    encode = encoder_of(sp_tokenizer.tokenizer_json(), sp_tokenizer.path)
    texts = [*TEXTS, *made_of_pieces(processor)]
    assert [encode(text) for text in texts] == [processor.encode(text) for text in texts]
    check_exportable(sp_tokenizer)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"treat_whitespace_as_suffix": True}, "cannot express this model type"),
        ({"model_type": "word", "vocab_size": 280}, "cannot express this model type"),
    ],
)
def test_a_model_that_cannot_be_exported_is_refused_before_sharding(
    tmp_path, texts, options, reason
):
    path = train_usual_model(tmp_path / "t.model", **options)
    with pytest.raises(InputError, match=rf"could not be exported.*{reason}.*data tokenizer"):
        shard_corpus([str(texts)], tokenizer=path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_with_other_ids_after_export_is_refused_with_an_example(
    sp_tokenizer, monkeypatch
):
    values = sp_tokenizer.tokenizer_json()
    values["model"]["byte_fallback"] = False
    monkeypatch.setattr(type(sp_tokenizer), "tokenizer_json", lambda self: values)
    with pytest.raises(InputError, match=r"could not be exported.*has other ids there"):
        check_exportable(sp_tokenizer)


def test_custom_normalization_rules_are_kept(tmp_path):
    rules = tmp_path / "rules.tsv"
    rules.write_text("41\t42\n", "utf-8")  # A becomes B, and nothing else changes.
    options = {"normalization_rule_tsv": str(rules), "remove_extra_whitespaces": False}
    sp_tokenizer = load_tokenizer(train_usual_model(tmp_path / "t.model", **BPE, **options))
    encode = encoder_of(sp_tokenizer.tokenizer_json(), sp_tokenizer.path)
    for text in ("ABBA", "① Ａ", "E\u0301", "\r\n a"):
        assert encode(text) == sp_tokenizer.encode(text).tolist()
    assert encode("A") == encode("B")
