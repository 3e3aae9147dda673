"""Replaces personal data, and matches of the user's own patterns."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from data_tools.cleaning.clean_config import RedactRules

# A sequence of characters is matched only from its start, so that the time is linear in its length.
# Text after a replacement is not matched, so that redacting twice gives the same text.
_LOCAL = r"[A-Za-z0-9.!#$%&'*+/=?^_`{}~-]"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL = rf"(?<!{_LOCAL})(?<!\|\|\|){_LOCAL}+(?:@{_LABEL}(?:\.{_LABEL})+)+"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rf"(?<![\d.])(?<!\|\|\|)(?:{_BYTE}\.){{3}}{_BYTE}(?!\.?\d)"
_PHONE = (
    r"(?<!\|\|\|)(?:"
    r"(?<![\w+])\+[1-9](?=(?:[ .()-]{0,2}\d){6,14}(?!\d))\d{0,2}(?:[ .-]?\(?\d{1,4}\)?){2,5}(?!\d)"
    r"|(?<![\w(])\([2-9]\d\d\) ?[2-9]\d\d[ .-]\d{4}(?!\d)"
    r"|(?<![\w.-])[2-9]\d\d-[2-9]\d\d-\d{4}(?![\w-]))"
)


@dataclass(frozen=True, slots=True)
class Redaction:
    """One pattern, compiled, and what replaces it."""

    name: str
    pattern: re.Pattern[str]
    replacement: str
    needs: str
    """A character that every match contains; empty if there is none."""


def build_redactions(rules: RedactRules) -> list[Redaction]:
    """Compiles the enabled patterns, in the order in which they apply."""
    known = [
        (rules.email, Redaction("email", _compile(_EMAIL), "|||EMAIL_ADDRESS|||", "@")),
        (rules.ipv4, Redaction("ipv4", _compile(_IPV4), "|||IP_ADDRESS|||", ".")),
        (rules.phone, Redaction("phone", _compile(_PHONE), "|||PHONE_NUMBER|||", "")),
    ]
    own = [
        Redaction(one.name, re.compile(one.pattern), one.replacement, "") for one in rules.patterns
    ]
    return [redaction for on, redaction in known if on] + own


def redact(text: str, redactions: Sequence[Redaction]) -> tuple[str, Counter[str]]:
    """Replaces every match.

    Returns:
        The new text, and how often each pattern matched.
    """
    counts: Counter[str] = Counter()
    for redaction in redactions:
        if redaction.needs in text:
            text, count = redaction.pattern.subn(partial(_literal, redaction.replacement), text)
            counts[redaction.name] += count
    return text, +counts


def _literal(replacement: str, _: re.Match[str]) -> str:
    return replacement


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII)
