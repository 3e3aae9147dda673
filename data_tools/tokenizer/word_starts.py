"""Decides which tokens begin a word, from the text of the token only, for whole-word masking.

A token that begins with a letter, a digit or a combining mark continues the word before it; a token
that begins with a space begins a word. Each Chinese character and kana is a word, as in BERT's
whole-word masking for Chinese (Cui et al., arXiv 1906.08101), and so is each punctuation mark and
symbol.
"""

import re
import unicodedata

_CHINESE_OR_KANA = re.compile(
    "[\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3041-\u30ff\u3100-\u312f\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U0001aff0-\U0001b16f\U00020000-\U0003ffff]"
)
_JOINERS = "\u200c\u200d"  # They join letters and emoji.


def starts_word(content: bytes) -> bool:
    """Whether a token with this text, including its spaces, begins a word.

    A token that begins inside a character continues a word.
    """
    if not content:
        return True
    if 0x80 <= content[0] < 0xC0:
        return False
    # An incomplete character is most often one of a script without spaces, or an emoji.
    first = content.decode("utf-8", "replace")[0]
    if _CHINESE_OR_KANA.match(first):
        return True
    return unicodedata.category(first)[0] not in "LNM" and first not in _JOINERS
