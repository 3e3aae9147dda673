"""Texts in many languages are split into sentences, which together give the text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.sentence_splitter import MAX_CHARACTERS, split_sentences

# A bar marks the end of a sentence.
EXAMPLES = [
    "One here. |Two there! |Three? |Four",
    "He paid 3.14 dollars. |She paid 1,000.50 euros at 5 p.m. |Nobody else did.",
    "Dr. Smith met Mr. Jones, Mrs. Brown and Prof. Li. |They talked.",
    "J. R. R. Tolkien wrote it. |George W. Bush did not.",
    "Use a tool, e.g. Python or i.e. NumPy. |See Fig. 3 and No. 5 in vol. 2. |No. |Yes.",
    "The U.S. Army and the U.N. Council met. |A Ph.D. Student came.",
    "We met in 1999. |It rained on Jan. 5. |And so did I. |Then we left.",
    "1. First things. |2. Second things.",
    "Wait... what? |Well... |Then go… |No… not yet.",
    "Really?! |Yes!!! |Is it so? he asked. |It is.",
    '"Go!" |"Why?" she asked. |He said, "No." |(It was late.) |[See above.] |“Then go.” |Good.',
    "See www.example.com or v2.0.1 of a.txt. |¿Qué? |¡Sí! |— Non. |«Oui.» |Ende.",
    "first line\n|second line\r\n\t|third\n\n\n  |fourth.\n",
    "def f(x):\n    |return x.y  # A note. |Another.\n",
    "你好。|今天天气很好！|你去哪里？|不知道……|再见；|好的。",
    "他说：“你好！”|然后走了。|（真的吗？）|是的。|「はい。」|『そうです。』|行きます。",
    "现在是3.5万人,对吗?|是的!|走吧.|好",
    "中文句子。 |English one. |中文，逗号，不断。|End",
    "“好！”，他说。|他说（好。），走了！",
    "他走了。」）|真的？！……|好",
    "यह पहला है। |यह दूसरा है॥ |तीसरा",
    "هل أنت بخير؟ |نعم. |شكرا۔ |انتهى",
    "ይህ ነው። |ሌላ። |សួស្តី។ |မင်္ဂလာပါ။ |Բարև։ |ok",
    "สวัสดีครับ วันนี้อากาศดี\n|ไปไหน?|กลับบ้าน",
    "  Leading blanks. |Trailing blanks.   ",
    "no end at all",
    "...",
    "!? |A",
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_split_at_the_marked_positions(example):
    assert split_sentences(example.replace("|", "")) == [s for s in example.split("|") if s]


def check(text):
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    assert all(sentences)
    assert text.isspace() or not any(sentence.isspace() for sentence in sentences)
    return sentences


@given(st.text())
def test_the_joined_sentences_equal_the_text(text):
    check(text)


@given(st.lists(st.sampled_from([*"aA1.!?…。」\"')( \n\t\u3000\u2028,;中", "Mr", "\udcff"])))
def test_punctuation_and_white_space_in_any_order_are_kept(parts):
    check("".join(parts))


@pytest.mark.parametrize("text", ["", " ", "\n", " \n\u3000 "])
def test_a_blank_text_is_at_most_one_sentence(text):
    assert split_sentences(text) == [text] * bool(text)


def test_a_long_sentence_is_split_at_spaces_or_at_the_limit():
    words = check("word " * 5000)
    assert len(words) == 3
    assert all(len(part) <= MAX_CHARACTERS and part.endswith("d ") for part in words)
    assert [len(part) for part in check("x" * 25_000)] == [10_000, 10_000, 5_000]
    assert [len(part) for part in check("\n" + "字" * 10_001 + " " * 30_000)] == [10_001, 30_001]
    assert len(check(" " * 30_000 + "a")) == 1


@pytest.mark.parametrize("unit", ["Cats sat. ", *".(\n x", "! ", "\"'", "a.", "中。", "Mr. "])
def test_time_is_linear_in_the_length_of_the_text(unit):
    text = unit * (500_000 // len(unit))
    begin = time.process_time()
    check(text)
    assert time.process_time() - begin < 5  # A quadratic rule would take hours.
