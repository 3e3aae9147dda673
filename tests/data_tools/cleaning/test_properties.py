"""Cleaning is idempotent, and the results have no text that a rule removes."""

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.cleaning.clean_config import CleanConfig
from data_tools.cleaning.cleaner import Cleaner
from data_tools.cleaning.exact_duplicates import digest_text
from data_tools.cleaning.unicode_rules import compose
from data_tools.cleaning.word_splitter import split_words

ANY = st.text(st.characters(), max_size=40)
PIECES = st.sampled_from(
    ["a@b.org", "1.2.3.4", "+86 10 8888 6666", "\u0301", "\r", "\r\n", "\n", " ", "。", ".", "word"]
)
TEXTS = st.lists(ANY | PIECES, max_size=12).map("".join)
DROPPING_RULES = ("length", "c4_page", "gopher_quality", "gopher_repetition")


def cleaner(**sections) -> Cleaner:
    return Cleaner(CleanConfig(inputs=["in"], out="out", **sections))


EVERYTHING = cleaner(
    redact={"email": True, "ipv4": True, "phone": True},
    c4_lines={"enabled": True},
    **{name: {"enabled": False} for name in DROPPING_RULES},
)
DEFAULTS = cleaner()


@given(ANY)
def test_composing_twice_is_composing_once(text):
    once = compose(text)
    assert once == unicodedata.normalize("NFC", text)
    assert compose(once) == once


@settings(max_examples=150)
@given(TEXTS)
def test_cleaning_twice_equals_cleaning_once(text):
    once = EVERYTHING.clean(text)
    again = EVERYTHING.clean(once.text)
    assert again.text == once.text
    assert not again.edits
    assert again.fault == once.fault


@given(TEXTS)
def test_clean_text_is_composed_utf8_without_control_characters(text):
    cleaned = EVERYTHING.clean(text).text
    cleaned.encode("utf-8")
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not any(unicodedata.category(c) in {"Cc", "Cs"} for c in cleaned if c not in "\t\n")


@given(st.lists(TEXTS, min_size=1, max_size=30).map(" ".join))
def test_every_text_is_kept_or_dropped_and_a_kept_text_is_kept_again(text):
    once = DEFAULTS.clean(text)
    assert DEFAULTS.clean(once.text).fault == once.fault


@given(ANY)
def test_words_are_pieces_of_the_text_in_order(text):
    position = 0
    for word in split_words(text).all:
        position = text.index(word, position) + len(word)


@given(ANY)
def test_white_space_does_not_change_a_digest(text):
    assert digest_text(text) == digest_text(f"\n {text}\t")
