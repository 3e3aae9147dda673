"""Splits text of any language into sentences, for BERT's sentence pairs and the cleaning rules.

Uses rules, not a model: the result is the same on every machine, and it is fast enough for a large
corpus.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

MAX_CHARACTERS = 10_000
"""Longer sentences are cut, after white space if there is any."""

_LINE_ENDS = "\n\r\v\f\x85\u2028\u2029"
# These always end a sentence: Chinese and Japanese marks, danda, Urdu, Arabic, Burmese, Khmer,
# Ethiopic, Armenian, Tibetan.
_STRONG = "。！？；｡।॥۔؟။។៕።፧։།"
_WEAK = ".!?…‼⁇⁈⁉‽．"  # These end a sentence only if another one begins after them.
_CLOSERS = "\"'”’」』）】》〉›»)\\]}｣〕"
_OPENERS = "\"'“‘「『（【《〈‹«([{｢〔¿¡-–—*_"
_CONTINUATION = ",;:)]}，、；：,）】》」』”’…"
_CANDIDATE = re.compile(
    f"[{_LINE_ENDS}{_STRONG}{_WEAK}](?:(?<=[{_STRONG}{_WEAK}])[{_STRONG}{_WEAK}{_CLOSERS}]*+)?\\s*+"
)
_IS_STRONG = re.compile(f"[{_STRONG}]")
_HAS_LINE_END = re.compile(f"[{_LINE_ENDS}]")
_BLANKS = re.compile(r"\s*+")
_UP_TO_LAST_BLANK = re.compile(r"(?s).*\s")
_WORD_BEFORE = re.compile(r"[^\s\"'“‘«(\[{]*$")
# Scripts without spaces between sentences.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\uff66-\uff9f]"
)
_ABBREVIATION_WORDS = (
    "mr mrs ms dr prof rev hon st mt gen col maj capt lt cmdr sgt sen rep gov pres supt "
    "vs cf viz approx e.g i.e al z.b d.h u.a bzw ca hr fr mme mlle sra dra"
)
_NUMBERED_WORDS = (
    "no nos nr vol vols fig figs p pp art sec ch eq op para "
    "jan feb mar apr jun jul aug sep sept oct nov dec"
)
_ABBREVIATIONS = frozenset(_ABBREVIATION_WORDS.split())
_NUMBERED = frozenset(_NUMBERED_WORDS.split())  # Abbreviations only before a number.
_LONGEST_WORD = 24


def split_sentences(text: str) -> list[str]:
    """Splits a text into sentences; their concatenation is the text.

    A sentence ends at 。！？； and similar marks, at `.`, `!`, `?` or `…` before white space and
    the beginning of another sentence (not after `Dr.`, initials or `e.g.`), and at every line end.
    Closing quotes and the white space after a sentence belong to it. No sentence is empty, and none
    consists of white space unless the text does.
    """
    start = first = _end_of_blanks(text, 0)
    if first == len(text):
        return [text] if text else []
    begins = [0]
    for end in _ends(text, first):
        begins += _cuts(text, start, end)
        begins.append(end)
        start = end
    begins += _cuts(text, start, len(text))
    if begins[-1] != len(text):
        begins.append(len(text))
    return [text[a:b] for a, b in pairwise(begins)]


def _end_of_blanks(text: str, start: int) -> int:
    found = _BLANKS.match(text, start)
    assert found is not None
    return found.end()


def _ends(text: str, start: int) -> Iterator[int]:
    for candidate in _CANDIDATE.finditer(text, start):
        if _is_end(text, start, candidate):
            start = candidate.end()
            yield start


def _is_end(text: str, start: int, candidate: re.Match[str]) -> bool:
    marks = candidate[0].rstrip()
    blanks = candidate[0][len(marks) :]
    if _HAS_LINE_END.search(blanks):
        return True
    end = candidate.end()
    following = text[end : end + 1]
    if following in _CONTINUATION:  # True also at the end of the text: `following` is empty.
        return not following
    if _IS_STRONG.search(marks):
        return True
    if not blanks:
        return _ends_without_blank(text, candidate.start(), marks, following)
    if _begin_of_word(text, end).islower():
        return False
    return marks != "." or not _is_abbreviated(text, start, candidate.start(), following)


def _ends_without_blank(text: str, position: int, marks: str, following: str) -> bool:
    if not _UNSPACED.match(following):
        return False
    return marks[0] not in ".．" or bool(_UNSPACED.match(text[position - 1 : position]))


def _begin_of_word(text: str, start: int) -> str:
    for character in text[start : start + 4]:
        if character not in _OPENERS:
            return character
    return ""


def _is_abbreviated(text: str, start: int, stop: int, following: str) -> bool:
    found = _WORD_BEFORE.search(text[max(start, stop - _LONGEST_WORD) : stop])
    word = found[0] if found else ""
    if len(word) == 1 and word.isalpha():
        return word != "I" and (word.isupper() or following.isdigit())
    if word.isdigit():
        return stop - len(word) == start  # The number of a list entry.
    if "." in word and word[0].isupper() and max(map(len, word.split("."))) <= 2:
        return True
    word = word.lower()
    return word in _ABBREVIATIONS or (word in _NUMBERED and following.isdigit())


def _cuts(text: str, start: int, end: int) -> Iterator[int]:
    while end - start > MAX_CHARACTERS:
        found = _UP_TO_LAST_BLANK.match(text, start, start + MAX_CHARACTERS)
        start = _end_of_blanks(text, found.end() if found else start + MAX_CHARACTERS)
        if start >= end:
            return
        yield start
