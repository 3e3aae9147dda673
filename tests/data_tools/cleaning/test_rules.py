"""Each rule keeps texts on one side of its threshold and drops texts on the other."""

import random
import re

import pytest

from data_tools.cleaning.clean_config import C4LineRules, CleanConfig
from data_tools.cleaning.cleaner import Cleaner
from data_tools.cleaning.quality_rules import keep_c4_lines
from data_tools.cleaning.repetition_rules import duplicate_shares, gram_shares
from data_tools.cleaning.word_splitter import split_words
from tests.data_tools.cleaning.documents import (
    CHINESE_NEWS,
    ENGLISH_STORY,
    HINDI,
    KOREAN,
    THAI,
    random_prose,
)


def clean(text: str, **sections):
    return Cleaner(CleanConfig(inputs=["in"], out="out", **sections)).clean(text)


def only(section: str, **keys):
    """A config in which only the given keys of one section are active."""
    judges = ("length", "c4_page", "gopher_quality", "gopher_repetition")
    fields = CleanConfig.model_fields[section].annotation.model_fields
    nulls = {key: None for key, field in fields.items() if field.default is not None}
    off = {key: None for key in nulls if not isinstance(fields[key].default, bool)}
    off.pop("stop_words", None)
    enabled = {"enabled": True} if "enabled" in fields else {}
    return {
        **{judge: {"enabled": False} for judge in judges if judge != section},
        section: {**off, **enabled, **keys},
    }


def numbered(count: int) -> str:
    return " ".join(f"word{number}" for number in range(count))


@pytest.mark.parametrize(
    "text", [CHINESE_NEWS, ENGLISH_STORY, THAI, KOREAN, HINDI, random_prose(random.Random(1))]
)
def test_the_defaults_keep_good_text_of_any_language(text):
    cleaned = clean(text)
    assert cleaned.fault is None
    assert cleaned.text == text
    assert not cleaned.edits


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Home\nAbout\nContact\n" * 30, "gopher_repetition.duplicate_lines"),
        ("首页\n关于我们\n联系方式\n" * 30, "gopher_repetition.duplicate_lines"),
        ("立即购买最新优惠商品" * 30, "gopher_repetition.top_2_gram"),
        ("- " + "\n- ".join(numbered(80).split()), "gopher_quality.max_bullet_lines"),
        ("Lorem ipsum dolor sit amet. " + ENGLISH_STORY, "c4_page.lorem_ipsum"),
        ("Click here to read more.", "length.min_words"),
        ("== ++ 12 %% 77 " * 40 + ENGLISH_STORY, "gopher_quality.min_mean_word_length"),
        (" \n\t", "empty"),
    ],
)
def test_the_defaults_drop_boilerplate(text, fault):
    assert clean(text).fault == fault


@pytest.mark.parametrize(
    ("rule", "raw", "expected"),
    [
        ("line_ends", "one\r\ntwo\rthree\r\r\nfour\n", "one\ntwo\nthree\n\nfour\n"),
        ("control_characters", "a\x00b\tc\x1bd\x85e\ufefff\x7f\n\x0c", "ab\tcdef\n"),
        ("control_characters", "x\ud800y\uffffz\U0010ffff", "xyz"),
        ("nfc", "cafe\u0301 \u1112\u1161\u11ab", "café 한"),
    ],
)
def test_normalization_rules_change_the_text_and_can_be_turned_off(rule, raw, expected):
    changed = clean(raw, length={"enabled": False})
    assert changed.text == expected
    assert changed.edits[f"unicode.{rule}"] == 1
    off = dict.fromkeys(("line_ends", "control_characters", "nfc"), False)
    assert clean(raw, unicode=off).text == raw


def test_joiners_and_line_separators_are_not_removed_as_control_characters():
    text = "می\u200cخواهم 👩\u200d🚀 \u2028 \u200e \u00a0\r"
    assert clean(text, unicode={"line_ends": False}).text == text


@pytest.mark.parametrize(
    ("key", "value", "kept", "dropped"),
    [
        ("min_characters", 10, "0123456789", "012345678"),
        ("max_characters", 10, "0123456789", "0123456789a"),
        ("min_words", 3, "one two three", "one two"),
        ("max_words", 3, "one two three", "one two three four"),
        ("min_words", 4, "你好世界", "你好。世"),
        ("min_words", 4, "2024年 增长", "5 % 好"),
    ],
)
def test_length_limits_are_inclusive(key, value, kept, dropped):
    rules = only("length", **{key: value})
    assert clean(kept, **rules).fault is None
    assert clean(dropped, **rules).fault == f"length.{key}"


@pytest.mark.parametrize(
    ("key", "value", "kept", "dropped"),
    [
        ("min_mean_word_length", 3.0, "abc abcd ab", "abc abc ab"),
        ("max_mean_word_length", 10.0, "a" * 10 + " " + "b" * 10, "a" * 10 + " " + "b" * 11),
        ("max_symbol_ratio", 0.1, "# " + numbered(9), "## " + numbered(9)),
        ("max_symbol_ratio", 0.1, "x… " + numbered(9), "x… y... " + numbered(8)),
        ("max_bullet_lines", 0.9, "• a\n" * 9 + "b", "• a\n" * 10),
        ("max_ellipsis_lines", 0.3, "a...\n" * 3 + "b\n" * 7, "a…\n" * 4 + "b\n" * 6),
        ("min_alphabetic_words", 0.8, "a b c d1 5", "a b c 4 5"),
        ("min_alphabetic_words", 0.8, "我 们 在 家 5", "我 们 在 4 5"),
        ("min_stop_words", 2, "The end of it", "the cat saw the dog"),
    ],
)
def test_gopher_quality_thresholds_are_inclusive(key, value, kept, dropped):
    rules = only("gopher_quality", **{key: value})
    assert clean(kept, **rules).fault is None
    assert clean(dropped, **rules).fault == f"gopher_quality.{key}"


def test_stop_words_may_be_of_another_language():
    german = {"min_stop_words": 2, "stop_words": ["der", "und", "nicht"]}
    rules = only("gopher_quality", **german)
    assert clean("Der Hund und die Katze", **rules).fault is None
    assert clean("The dog and the cat", **rules).fault == "gopher_quality.min_stop_words"


def test_shares_of_duplicate_lines_count_repeated_lines():
    assert duplicate_shares(["aa", "b", "aa", "aa"]) == (0.5, 4 / 7)
    assert duplicate_shares(["a", "b"]) == (0.0, 0.0)
    assert duplicate_shares([]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("key", "value", "kept", "dropped"),
    [
        ("duplicate_lines", 0.5, "a\na\nb\nb", "a\na\na\nb\nb"),
        ("duplicate_line_characters", 0.5, "ab\nab", "abcd\nabcd\nabcd"),
        ("duplicate_paragraphs", 0.3, "a\n\nb\n\nc\n\na", "a\n\nb\n \na"),
        ("duplicate_paragraph_characters", 0.4, "ab\n\nab\n\nc", "ab\n\nab"),
    ],
)
def test_gopher_line_and_paragraph_thresholds_are_inclusive(key, value, kept, dropped):
    rules = only("gopher_repetition", **{key: value})
    assert clean(kept, **rules).fault is None
    assert clean(dropped, **rules).fault == f"gopher_repetition.{key}"


def slow_gram_shares(words: list[str], scale: int) -> dict[str, float]:
    """The shares by their definitions, in a plain and slow way."""
    total, shares = sum(map(len, words)), {}
    for n in range(2, 11):
        width = n * scale
        grams = [tuple(words[i : i + width]) for i in range(len(words) - width + 1)]
        counts = {gram: grams.count(gram) for gram in grams}
        if n < 5:
            top = max(counts.values(), default=0)
            longest = max((sum(map(len, g)) for g, c in counts.items() if c == top), default=0)
            shares[f"top_{n}_gram"] = top * longest / total if top > 1 else 0.0
        else:
            covered = {
                i + k for i, gram in enumerate(grams) if gram in grams[:i] for k in range(width)
            }
            shares[f"duplicate_{n}_grams"] = sum(len(words[i]) for i in covered) / total
    return shares


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("alphabet", ["a bb ccc dddd", "北 京 市 海"])
def test_n_gram_shares_equal_their_definitions(seed, alphabet):
    rng = random.Random(seed)
    phrase = rng.choices(alphabet.split(), k=24)
    text = " ".join(rng.choices(alphabet.split(), k=20) + phrase + ["x"] + phrase)
    words = split_words(text)
    expected = slow_gram_shares(list(words.all), 2 if words.mostly_unspaced else 1)
    found = dict.fromkeys(expected, 0.0) | dict(gram_shares(words))
    assert found == pytest.approx(expected)
    assert found["duplicate_10_grams"] > 0


def test_a_long_document_is_checked_in_nearly_linear_time():
    # Quadratic work would be 10^10 steps: far beyond the time limit of a test.
    text = "abc " * 100_000
    assert clean(text, **only("gopher_repetition", duplicate_10_grams=0.1)).fault


def test_c4_lines_drops_lines_and_keeps_the_others():
    text = (
        'He said "yes."\nMenu\n这是一个完整的句子。\n\nPlease enable JavaScript to go on.\n'
        "See our Privacy Policy for more.\nToo short.\n“你去哪里？”\nThe end (really).\nNo mark"
    )
    kept, dropped = keep_c4_lines(text, C4LineRules(enabled=True))
    assert kept == 'He said "yes."\n这是一个完整的句子。\n\n“你去哪里？”\nThe end (really).'
    assert dropped == {"terminal_punctuation": 2, "javascript": 1, "policy": 1, "min_words": 1}


def test_a_document_without_remaining_lines_is_empty():
    cleaned = clean("Home\n\nAbout", c4_lines={"enabled": True})
    assert (cleaned.text, cleaned.fault) == ("", "empty")


@pytest.mark.parametrize(
    ("key", "value", "kept", "dropped"),
    [
        ("lorem_ipsum", True, "Lorem, ipsum", "LOREM IPSUM dolor"),
        ("curly_brace", True, "f(x)", "f() { }"),
        ("min_sentences", 3, "One is. Two are. Three be.", "One is. Two are."),
        ("min_sentences", 3, "一是一。二是二！三呢？", "一是一。二是二！"),
    ],
)
def test_c4_page_rules(key, value, kept, dropped):
    rules = only("c4_page", **{key: value})
    assert clean(kept, **rules).fault is None
    assert clean(dropped, **rules).fault == f"c4_page.{key}"


def test_every_threshold_can_be_null_and_every_section_off():
    sections = [
        name for name in CleanConfig.model_fields if re.match("gopher|length|c4_page", name)
    ]
    for name in sections:
        fields = CleanConfig.model_fields[name].annotation.model_fields
        assert fields["enabled"].default is True
    off = {name: {"enabled": False} for name in sections}
    assert clean("menu\n" * 50 + "lorem ipsum ####", **off).fault is None
