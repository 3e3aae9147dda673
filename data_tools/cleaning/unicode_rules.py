"""Rules that normalize line ends, control characters and Unicode composition: pure functions."""

import re
import unicodedata

# Cc except tab, LF and CR, surrogates, the byte order mark, and the noncharacters: a range in the
# basic plane, and the last two of every plane.
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufdd0-\ufdef\ufffe\uffff"
    + "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(1, 17))
    + "]"
)
_ASCII_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def unify_line_ends(text: str) -> str:
    """Replaces CR LF, and CR without LF, by LF."""
    if "\r" not in text:
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n")


def remove_control_characters(text: str) -> str:
    """Removes control characters, as `UnicodeRules.control_characters` describes."""
    # All control characters are unprintable, which is quick to check.
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return (_ASCII_CONTROL if text.isascii() else _CONTROL).sub("", text)


def compose(text: str) -> str:
    """Converts a text to Unicode Normalization Form C."""
    if unicodedata.is_normalized("NFC", text):
        return text
    return unicodedata.normalize("NFC", text)
