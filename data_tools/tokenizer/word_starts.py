"""Which tokens begin a word, seen from the token alone: what whole-word masking groups by.

A letter, a digit or a combining mark goes on with the word before, unless a blank is part of the
token. Chinese characters and kana are words of their own, as in BERT's whole-word masking for
Chinese (Cui et al., arXiv 1906.08101), and so are punctuation, symbols and blanks.
"""

import re
import unicodedata

_CHINESE_OR_KANA = re.compile(
    "[\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3041-\u30ff\u3100-\u312f\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U0001aff0-\U0001b16f\U00020000-\U0003ffff]"
)
_JOINERS = "\u200c\u200d"  # They tie letters and emoji together.


def starts_word(content: bytes) -> bool:
    """Whether a token of this text, its blanks included, begins a word.

    A token that begins within a character goes on with it.
    """
    if not content:
        return True
    if 0x80 <= content[0] < 0xC0:
        return False
    # A character cut short is most often one of a script without blanks, or an emoji.
    first = content.decode("utf-8", "replace")[0]
    if _CHINESE_OR_KANA.match(first):
        return True
    return unicodedata.category(first)[0] not in "LNM" and first not in _JOINERS
