"""Splits text of any script into words, so that the same rules can be used for all languages.

In scripts with spaces between words, a word is the text between spaces, with its punctuation. In
other scripts, and in Hangul, whose words are too short for rules made for English, each character
is a word, and full-width punctuation separates words as a space does.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Thai and Lao, Myanmar, Khmer; Hangul; kana, Bopomofo and Han with their extensions.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1100-\u11ff\ua960-\ua97f\uac00-\ud7ff"
    "\u3005-\u3007\u3021-\u302d\u3031-\u3035\u3040-\u318f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001aff0-\U0001b16f"
    "\U00020000-\U0003ffff"
)
"""The content of a regular expression's character class: characters that are words themselves."""

_WIDE_MARKS = "\u2026\u2018-\u201f\u3000-\u3004\u3008-\u3020\u3030\u303d\ufe10-\ufe6b\uff01-\uff0f"
_WIDE_MARKS += "\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_ANY_UNSPACED = re.compile(f"[{UNSPACED}]")
_MIXED_WORD = re.compile(f"[{UNSPACED}]|[^\\s{UNSPACED}{_WIDE_MARKS}]+")
_PLAIN_TERM = re.compile(r"\w+")
_MIXED_TERM = re.compile(f"[{UNSPACED}]|[^\\W{UNSPACED}]+")


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text, in order, and how many are characters of scripts without spaces."""

    all: Sequence[str]
    num_unspaced: int

    @property
    def mostly_unspaced(self) -> bool:
        """Whether most words are characters of scripts without spaces."""
        return 2 * self.num_unspaced > len(self.all)


def split_words(text: str) -> Words:
    """Finds the words of a text; numbers and separate punctuation marks are words too."""
    if text.isascii() or not _ANY_UNSPACED.search(text):
        return Words(text.split(), 0)
    words = _MIXED_WORD.findall(text)
    return Words(words, sum(map(len, _ANY_UNSPACED.findall(text))))


def split_terms(text: str) -> list[str]:
    """Finds words in lower case and without punctuation, for comparing documents."""
    lower = text.lower()
    pattern = _PLAIN_TERM if text.isascii() else _MIXED_TERM
    return pattern.findall(lower)
