"""SentencePiece models of other origin keep their ids, and unsuitable ones are refused."""

import io

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.errors import InputError
from data_tools.tokenizer import SpecialIds, load_tokenizer

AS_IT_IS = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


def train_usual_model(path, **options):
    """A model with SentencePiece's usual options: leading space, normalization, byte fallback."""
    model = io.BytesIO()
    texts = ["hello world the cat  sat 中文 on a mat. ABC é " * 3] * 50
    settings = {"byte_fallback": True, "vocab_size": 310, "hard_vocab_limit": False, **options}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, minloglevel=2, **settings
    )
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="module", params=["dummy prefix", "no prefix"])
def exact(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("brought") / "llama.model"
    options = {"add_dummy_prefix": request.param == "dummy prefix"}
    return load_tokenizer(
        train_usual_model(path, **AS_IT_IS, **options, user_defined_symbols=["<|im|>"])
    )


@settings(deadline=None)
@given(st.lists(st.sampled_from(["the", " ", "  ", "中", "\n", "\0", "é", "<|im|>", "<s>"])))
def test_the_ids_equal_those_of_sentencepiece(exact, parts):
    text = "".join(parts)
    processor = sentencepiece.SentencePieceProcessor(model_proto=exact.content)
    assert exact.encode(text).tolist() == processor.encode(text)


@settings(deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=5), st.text(" a▁中").map(str.encode))))
def test_the_leading_space_is_removed_in_decoding(exact, parts):
    text = b"".join(parts).decode("utf-8", "surrogateescape")
    assert exact.decode(exact.encode(text)) == text
    assert exact.exact


@settings(deadline=None)
@given(st.lists(st.text(" a▁。", min_size=1)))
def test_only_the_first_part_of_a_text_gets_the_leading_space(exact, parts):
    ids = [i for part in exact.encode_parts(parts) for i in part]
    assert exact.decode(ids) == "".join(parts)


def test_missing_special_ids_are_none(tmp_path):
    tokenizer = load_tokenizer(train_usual_model(tmp_path / "t.model", **AS_IT_IS))
    assert tokenizer.special == SpecialIds(-1, 1, 2, 0, -1, -1, -1)
    assert tokenizer.special.present() == {"bos": 1, "eos": 2, "unk": 0}
    assert (tokenizer.kind, tokenizer.file_name) == ("sentencepiece", "tokenizer.model")


def test_special_ids_are_found_by_usual_names_that_no_text_is_encoded_to(tmp_path):
    names = {"control_symbols": ["[CLS]", "[SEP]"], "user_defined_symbols": ["[MASK]"]}
    tokenizer = load_tokenizer(train_usual_model(tmp_path / "t.model", **AS_IT_IS, **names))
    special = tokenizer.special
    assert [tokenizer.piece(i) for i in (special.cls, special.sep)] == ["[CLS]", "[SEP]"]
    assert special.mask == -1
    assert not {special.cls, special.sep} & set(tokenizer.encode("[CLS] a [SEP]").tolist())


def test_a_normalizing_model_keeps_its_ids_and_is_reported_as_lossy(tmp_path):
    tokenizer = load_tokenizer(train_usual_model(tmp_path / "t.model"))
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.content)
    assert not tokenizer.exact
    assert tokenizer.encode("the  ＣＡＴ\nsat").tolist() == processor.encode("the  ＣＡＴ\nsat")
    assert tokenizer.decode(tokenizer.encode("the  cat sat")) == "the cat sat"


def test_a_model_that_loses_text_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no byte pieces.*byte fallback"):
        load_tokenizer(train_usual_model(tmp_path / "t.model", byte_fallback=False))


def test_a_model_without_an_end_of_document_token_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no id for eos"):
        load_tokenizer(train_usual_model(tmp_path / "t.model", eos_id=-1))


def test_special_ids_of_a_sentencepiece_model_cannot_be_given(tmp_path):
    with pytest.raises(InputError, match="defines its own special ids"):
        load_tokenizer(train_usual_model(tmp_path / "t.model"), special={"eos": "the"})
