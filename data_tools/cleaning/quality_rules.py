"""Rules for one document or its lines, from C4 and Gopher: pure functions of the text.

Each `find_..._fault` returns the config key of the first threshold that a text violates, or None.
"""

import re
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter

from data_tools.cleaning.clean_config import (
    C4LineRules,
    C4PageRules,
    GopherQualityRules,
    LengthRules,
)
from data_tools.cleaning.word_splitter import UNSPACED, Words, split_words

_BULLETS = ("•", "‣", "●", "○", "◦", "▪", "■", "·", "-", "*")
_ELLIPSES = ("...", "…")
# Full stops, exclamation and question marks of many scripts, and marks that end a quotation.
_TERMINALS = tuple('.!?"”’»。！？．｡」』؟۔।॥։።።។။')
_CLOSERS = ")]）］】》〉'"
_POLICIES = re.compile(
    "terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies",
    re.IGNORECASE,
)
_JAVASCRIPT = re.compile(r"\bjavascript\b", re.IGNORECASE)
_LOREM_IPSUM = re.compile("lorem ipsum", re.IGNORECASE)
_LETTER = re.compile(f"[^\\W\\d_]|[{UNSPACED}]")
_EDGE_MARKS = ".,;:!?\"'()[]{}“”‘’"


def keep_c4_lines(text: str, rules: C4LineRules) -> tuple[str, Counter[str]]:
    """Drops the lines that C4 would drop; keeps empty lines.

    Returns:
        The remaining text, and the number of lines dropped by each rule.
    """
    dropped: Counter[str] = Counter()
    kept = []
    for line in text.split("\n"):
        fault = _find_line_fault(line, rules) if line.strip() else None
        if fault:
            dropped[fault] += 1
        else:
            kept.append(line)
    if not dropped:
        return text, dropped
    return "\n".join(kept) if any(line.strip() for line in kept) else "", dropped


def _find_line_fault(line: str, rules: C4LineRules) -> str | None:
    bare = line.rstrip()
    if rules.terminal_punctuation and not bare.rstrip(_CLOSERS).endswith(_TERMINALS):
        return "terminal_punctuation"
    if rules.javascript and _JAVASCRIPT.search(bare):
        return "javascript"
    if rules.policy and _POLICIES.search(bare):
        return "policy"
    if rules.min_words and len(split_words(bare).all) < rules.min_words:
        return "min_words"
    return None


def find_length_fault(text: str, words: Words, rules: LengthRules) -> str | None:
    """Checks the length of a document."""
    for what, length in (("characters", len(text)), ("words", len(words.all))):
        least, most = getattr(rules, f"min_{what}"), getattr(rules, f"max_{what}")
        if least is not None and length < least:
            return f"min_{what}"
        if most is not None and length > most:
            return f"max_{what}"
    return None


def find_c4_fault(text: str, rules: C4PageRules) -> str | None:
    """Checks a document as C4 checks web pages."""
    if rules.lorem_ipsum and _LOREM_IPSUM.search(text):
        return "lorem_ipsum"
    if rules.curly_brace and "{" in text:
        return "curly_brace"
    if rules.min_sentences and count_sentences(text) < rules.min_sentences:
        return "min_sentences"
    return None


def count_sentences(text: str) -> int:
    """Counts the sentences of a text that have at least one letter."""
    from data_tools.sentence_splitter import split_sentences

    return sum(1 for sentence in split_sentences(text) if _LETTER.search(sentence))


def find_quality_fault(text: str, words: Words, rules: GopherQualityRules) -> str | None:
    """Checks whether a document is running text; a document without words is not."""
    if not words.all:
        return "min_alphabetic_words" if rules.min_alphabetic_words else None
    return (
        _find_mean_length_fault(words, rules)
        or _find_symbol_fault(text, len(words.all), rules)
        or _find_line_start_or_end_fault(text, rules)
        or _find_vocabulary_fault(words, rules)
    )


def _find_mean_length_fault(words: Words, rules: GopherQualityRules) -> str | None:
    if words.mostly_unspaced:
        return None
    characters = sum(map(len, words.all)) - words.num_unspaced
    mean = characters / (len(words.all) - words.num_unspaced)
    if rules.min_mean_word_length is not None and mean < rules.min_mean_word_length:
        return "min_mean_word_length"
    if rules.max_mean_word_length is not None and mean > rules.max_mean_word_length:
        return "max_mean_word_length"
    return None


def _find_symbol_fault(text: str, num_words: int, rules: GopherQualityRules) -> str | None:
    if rules.max_symbol_ratio is None:
        return None
    most = max(text.count("#"), sum(map(text.count, _ELLIPSES)))
    return "max_symbol_ratio" if most > rules.max_symbol_ratio * num_words else None


def _find_line_start_or_end_fault(text: str, rules: GopherQualityRules) -> str | None:
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    if rules.max_bullet_lines is not None:
        bullets = sum(line.startswith(_BULLETS) for line in lines)
        if bullets > rules.max_bullet_lines * len(lines):
            return "max_bullet_lines"
    if rules.max_ellipsis_lines is not None:
        ellipses = sum(line.endswith(_ELLIPSES) for line in lines)
        if ellipses > rules.max_ellipsis_lines * len(lines):
            return "max_ellipsis_lines"
    return None


def _find_vocabulary_fault(words: Words, rules: GopherQualityRules) -> str | None:
    least = rules.min_alphabetic_words
    if least is not None and not _are_alphabetic(words.all, least * len(words.all)):
        return "min_alphabetic_words"
    if rules.min_stop_words is not None:
        seen = {word.strip(_EDGE_MARKS).lower() for word in set(words.all)}
        if sum(word in seen for word in set(rules.stop_words)) < rules.min_stop_words:
            return "min_stop_words"
    return None


def _are_alphabetic(words: Sequence[str], least: float) -> bool:
    """Whether at least this many words have a letter; counts first characters before searching."""
    if sum(map(str.isalpha, map(itemgetter(0), words))) >= least:
        return True
    counts = Counter(words)
    return sum(n for word, n in counts.items() if _LETTER.search(word)) >= least
