"""Measures how much text of a document is repeated, as Gopher does, in nearly linear time.

Words are numbered, and an n-gram is identified by the numbers of its first (n-1)-gram and its last
word, so counts are exact. An n-gram can repeat only if its (n-1)-gram does, so few long n-grams
must be counted.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.cleaning.clean_config import GopherRepetitionRules
from data_tools.cleaning.word_splitter import Words

TOP_GRAMS = (2, 3, 4)
DUPLICATE_GRAMS = (5, 6, 7, 8, 9, 10)
_UNSPACED_WORD_CHARACTERS = 2
_BREAK = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True)
class _Grams:
    """The n-grams, for one n, that occur more than once: start and kind of each occurrence."""

    length: int
    starts: NDArray[np.int64]
    kinds: NDArray[np.int64]
    num_kinds: int


def find_repetition_fault(text: str, words: Words, rules: GopherRepetitionRules) -> str | None:
    """Returns the config key of the first threshold that a text violates, or None."""
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    paragraphs = [part for part in map(str.strip, _BREAK.split(text)) if part]
    for name, parts in (("line", lines), ("paragraph", paragraphs)):
        share, characters = duplicate_shares(parts)
        if _exceeds(share, getattr(rules, f"duplicate_{name}s")):
            return f"duplicate_{name}s"
        if _exceeds(characters, getattr(rules, f"duplicate_{name}_characters")):
            return f"duplicate_{name}_characters"
    for key, share in gram_shares(words):
        if _exceeds(share, getattr(rules, key)):
            return key
    return None


def duplicate_shares(parts: Iterable[str]) -> tuple[float, float]:
    """The fraction of parts that repeat an earlier part, and their fraction of the characters."""
    counts = Counter(parts)
    total = sum(counts.values())
    if total == len(counts):
        return 0.0, 0.0
    characters = sum(len(part) * count for part, count in counts.items())
    repeated = sum(len(part) * (count - 1) for part, count in counts.items() if count > 1)
    return (total - len(counts)) / total, repeated / characters


def gram_shares(words: Words) -> Iterator[tuple[str, float]]:
    """Yields the fractions of characters for `top_2_gram` to `duplicate_10_grams`, in that order.

    An n without repeated n-grams is omitted; among equally frequent n-grams the longest counts.
    """
    lengths = np.fromiter(map(len, words.all), np.int64, len(words.all))
    total = int(lengths.sum())
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    scale = _UNSPACED_WORD_CHARACTERS if words.mostly_unspaced else 1
    wanted = {scale * n: n for n in (*TOP_GRAMS, *DUPLICATE_GRAMS)}
    for grams in _repeated_grams(words.all, max(wanted)):
        n = wanted.get(grams.length)
        if n in TOP_GRAMS:
            yield f"top_{n}_gram", _top_characters(grams, ends) / total
        elif n is not None:
            yield f"duplicate_{n}_grams", _duplicate_characters(grams, lengths) / total


def _exceeds(share: float, most: float | None) -> bool:
    return most is not None and share > most


def _repeated_grams(words: Sequence[str], longest: int) -> Iterator[_Grams]:
    """Yields the repeated n-grams for n = 2, 3, ... until none is repeated."""
    number_of = {word: number for number, word in enumerate(dict.fromkeys(words))}
    ids = np.fromiter(map(number_of.__getitem__, words), np.int64, len(words))
    starts = np.arange(len(ids), dtype=np.int64)
    kinds = ids
    for n in range(2, longest + 1):
        inside = starts + n <= len(ids)
        starts, kinds = starts[inside], kinds[inside]
        _, kinds, counts = np.unique(
            kinds * len(number_of) + ids[starts + n - 1], return_inverse=True, return_counts=True
        )
        repeated = counts[kinds] > 1
        if not repeated.any():
            return
        starts, kinds = starts[repeated], kinds[repeated]
        yield _Grams(n, starts, kinds, len(counts))


def _top_characters(grams: _Grams, ends: NDArray[np.int64]) -> int:
    counts = np.bincount(grams.kinds, minlength=grams.num_kinds)
    top = counts[grams.kinds] == counts.max()
    starts = grams.starts[top]
    return int((ends[starts + grams.length] - ends[starts]).max() * counts.max())


def _duplicate_characters(grams: _Grams, lengths: NDArray[np.int64]) -> int:
    _, first = np.unique(grams.kinds, return_index=True)
    later = np.ones(len(grams.starts), dtype=bool)
    later[first] = False
    edges = np.zeros(len(lengths) + 1, np.int64)
    np.add.at(edges, grams.starts[later], 1)
    np.add.at(edges, grams.starts[later] + grams.length, -1)
    return int(lengths[np.cumsum(edges[:-1]) > 0].sum())
