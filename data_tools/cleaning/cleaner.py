"""Applies all rules for a single document, in order, to its text."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from data_tools.cleaning.clean_config import CleanConfig
from data_tools.cleaning.quality_rules import (
    find_c4_fault,
    find_length_fault,
    find_quality_fault,
    keep_c4_lines,
)
from data_tools.cleaning.redaction_rules import build_redactions, redact
from data_tools.cleaning.repetition_rules import find_repetition_fault
from data_tools.cleaning.unicode_rules import compose, remove_control_characters, unify_line_ends
from data_tools.cleaning.word_splitter import Words, split_words

EMPTY = "empty"
"""The reason for dropping a document in which the rules leave only white space."""
_Check = Callable[[str, Words], str | None]


@dataclass(frozen=True, slots=True)
class Cleaned:
    """The result of the rules for a document."""

    text: str
    fault: str | None
    """The key of the rule that drops it, such as `length.min_words`; None if it is kept."""
    edits: Counter[str]
    """How often each rule changed it, by the key of the rule; a Unicode rule counts once."""


class Cleaner:
    """The rules of a job, with their patterns compiled."""

    def __init__(self, config: CleanConfig) -> None:
        self._line_rules = config.c4_lines
        self._redactions = build_redactions(config.redact)
        self._unicode_rules = [
            (f"unicode.{name}", rule)
            for name, rule in (
                ("line_ends", unify_line_ends),
                ("control_characters", remove_control_characters),
                ("nfc", compose),
            )
            if getattr(config.unicode, name)
        ]
        self._checks = _checks(config)

    def clean(self, text: str) -> Cleaned:
        """Applies the rules: first those that change a text, then those that may drop it."""
        text, edits = self._edit(text)
        if not text.strip():
            return Cleaned(text, EMPTY, edits)
        words = split_words(text)
        for section, check in self._checks:
            if fault := check(text, words):
                return Cleaned(text, f"{section}.{fault}", edits)
        return Cleaned(text, None, edits)

    def _edit(self, text: str) -> tuple[str, Counter[str]]:
        edits: Counter[str] = Counter()
        for name, rule in self._unicode_rules:
            edited = rule(text)
            edits[name] += edited != text
            text = edited
        text, redacted = redact(text, self._redactions)
        edits.update({f"redact.{name}": count for name, count in redacted.items()})
        if self._line_rules.enabled:
            text, lines = keep_c4_lines(text, self._line_rules)
            edits.update({f"c4_lines.{name}": count for name, count in lines.items()})
        return text, +edits


def _checks(config: CleanConfig) -> list[tuple[str, _Check]]:
    length, page = config.length, config.c4_page
    quality, repetition = config.gopher_quality, config.gopher_repetition
    known: list[tuple[bool, str, _Check]] = [
        (length.enabled, "length", lambda text, words: find_length_fault(text, words, length)),
        (page.enabled, "c4_page", lambda text, _: find_c4_fault(text, page)),
        (
            quality.enabled,
            "gopher_quality",
            lambda text, words: find_quality_fault(text, words, quality),
        ),
        (
            repetition.enabled,
            "gopher_repetition",
            lambda text, words: find_repetition_fault(text, words, repetition),
        ),
    ]
    return [(section, check) for enabled, section, check in known if enabled]
