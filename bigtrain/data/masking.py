"""Chooses the tokens that BERT must predict, and what it reads in their place. No torch.

The choice depends on the key of the row only, not on the batch that the row is in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

_MASK_SHARE, _RANDOM_SHARE = 0.8, 0.1


@dataclass(frozen=True, slots=True)
class MaskingRules:
    """How tokens are masked for one vocabulary."""

    mask_id: int
    word_starts: npt.NDArray[np.bool_]
    """``[vocab]``: whether an id begins a word; all True masks token by token."""
    ordinary_ids: Tokens
    """The ids that stand for text: only these are masked or used as random replacements."""
    masked_fraction: float = 0.15
    """Fraction of the text tokens of a row to predict."""
    max_ngram: int = 1
    """The largest number of consecutive words masked together."""


@dataclass(frozen=True, slots=True)
class MaskedRows:
    """The model's input and targets; each ``[rows, sequence]``."""

    inputs: Tokens
    labels: Tokens
    """The original tokens, also those that are not to be predicted."""
    weights: npt.NDArray[np.float32]
    """1 where a token is to be predicted, 0 elsewhere."""


def plan_masking(
    word_starts: npt.NDArray[np.bool_],
    *,
    mask_id: int,
    special_ids: Sequence[int],
    masked_fraction: float = 0.15,
    max_ngram: int = 1,
) -> MaskingRules:
    """Makes the rules for one vocabulary.

    Args:
        word_starts: ``[vocab]``: whether an id begins a word, from the tokenizer.
        mask_id: The id of the mask token.
        special_ids: Ids that do not stand for text; -1 for one that the tokenizer lacks.
        masked_fraction: Fraction of the text tokens of a row to predict.
        max_ngram: The largest number of consecutive words masked together.
    """
    ordinary = np.ones(len(word_starts), dtype=np.bool_)
    ordinary[[i for i in (*special_ids, mask_id) if i >= 0]] = False
    return MaskingRules(
        mask_id=mask_id,
        word_starts=word_starts,
        ordinary_ids=np.flatnonzero(ordinary),
        masked_fraction=masked_fraction,
        max_ngram=max_ngram,
    )


def sample_keys(*, seed: int, epochs: Sequence[int], samples: Sequence[int]) -> Keys:
    """The keys of samples' random numbers, ``[samples, 2]``: 128 bits, different for each sample.

    Args:
        seed: The run's seed.
        epochs: For each sample, how often its corpus was read before.
        samples: The number of each sample in the run, or in its table.
    """
    epoch_keys = {
        epoch: int.from_bytes(blake2b(f"{seed}/{epoch}".encode(), digest_size=8).digest(), "little")
        for epoch in dict.fromkeys(map(int, epochs))
    }
    keys = [(epoch_keys[int(e)], int(n)) for e, n in zip(epochs, samples, strict=True)]
    return np.array(keys, dtype=np.uint64).reshape(-1, 2)


def mask_tokens(rows: Tokens, *, keys: Keys, rules: MaskingRules) -> MaskedRows:
    """Chooses the tokens to predict and replaces most of them.

    About ``masked_fraction`` of each row's text is chosen, as whole words and spans of words, at
    least one word. Of the chosen tokens 80 % become the mask, 10 % a random token and 10 % stay
    (Devlin et al., "BERT", arXiv 1810.04805, section 3.1 and appendix A.1; whole words as in the
    models that the authors published in 2019). Special ids and padding are never chosen.

    Args:
        rows: ``[rows, sequence]``, padded with a special id.
        keys: ``[rows, 2]``, from ``sample_keys``.
        rules: From ``plan_masking``.
    """
    width = rows.shape[1]
    is_text = np.zeros(len(rules.word_starts), dtype=np.bool_)
    is_text[rules.ordinary_ids] = True
    text = is_text[rows]
    # The first text token after a special token begins a word, so no word spans a special token.
    begins = text & rules.word_starts[rows]
    begins[:, 0] |= text[:, 0]
    begins[:, 1:] |= text[:, 1:] & ~text[:, :-1]
    chosen = np.zeros(rows.shape, dtype=np.bool_)
    actions = np.empty(rows.shape, dtype=np.float64)
    choices = np.empty(rows.shape, dtype=np.float64)
    stream = _Stream()
    for row, key in enumerate(keys):
        actions[row], choices[row], *others = stream.uniform(key, 5 * width).reshape(5, width)
        chosen[row] = _choose(text[row], begins[row], others, rules)
    replacements = rules.ordinary_ids[(choices * len(rules.ordinary_ids)).astype(np.int64)]
    replaced = np.where(actions < _MASK_SHARE, rules.mask_id, replacements)
    changed = chosen & (actions < _MASK_SHARE + _RANDOM_SHARE)
    return MaskedRows(
        inputs=np.where(changed, replaced, rows),
        labels=rows.copy(),
        weights=chosen.astype(np.float32),
    )


def _choose(
    text: npt.NDArray[np.bool_],
    begins: npt.NDArray[np.bool_],
    uniform: Sequence[npt.NDArray[np.float64]],
    rules: MaskingRules,
) -> npt.NDArray[np.bool_]:
    """Chooses positions of one row: spans of words in random order, then words that still fit."""
    positions = np.flatnonzero(text)
    chosen = np.zeros(len(text), dtype=np.bool_)
    if not len(positions):
        return chosen
    word_of = np.cumsum(begins[positions]) - 1
    lengths = np.bincount(word_of)
    starts = positions[np.searchsorted(word_of, np.arange(len(lengths)))]
    budget = max(1, round(rules.masked_fraction * len(positions)))
    sizes, span_keys, word_keys = uniform
    # A word that does not directly follow the word before it comes after a special token.
    follows = np.append(False, starts[1:] == starts[:-1] + lengths[:-1])
    span_of = _cut_spans(follows, sizes[: len(lengths)], rules.max_ngram)
    span_lengths = np.bincount(span_of, weights=lengths)
    span_order = np.argsort(span_keys[: len(span_lengths)], kind="stable")
    fit = span_order[np.cumsum(span_lengths[span_order]) <= budget]
    in_span = np.zeros(len(span_lengths), dtype=np.bool_)
    in_span[fit] = True
    words = in_span[span_of]
    word_order = np.argsort(word_keys[: len(lengths)], kind="stable")
    _fill(words, lengths, word_order, budget)
    chosen[positions] = words[word_of]
    return chosen


def _cut_spans(
    follows: npt.NDArray[np.bool_], uniform: npt.NDArray[np.float64], max_ngram: int
) -> npt.NDArray[np.int64]:
    """Cuts the words of a row into spans of n words, where n has a probability ∝ 1/n.

    Lan et al., "ALBERT", arXiv 1909.11942, section 3.1 (n-gram masking), which follows Joshi et
    al., "SpanBERT", arXiv 1907.10529. Returns the span of each word.
    """
    count = len(follows)
    if max_ngram == 1:
        return np.arange(count)
    chances = np.cumsum(1.0 / np.arange(1, max_ngram + 1))
    sizes = 1 + np.searchsorted(chances[:-1] / chances[-1], uniform, side="right")
    begins = ~follows
    ends = np.cumsum(sizes)
    begins[np.append(0, ends[ends < count])] = True
    return np.cumsum(begins) - 1


def _fill(
    words: npt.NDArray[np.bool_], lengths: npt.NDArray[np.int64], order: Tokens, budget: int
) -> None:
    """Adds single words in random order while they fit; the shortest word if none fits."""
    room = budget - int(lengths[words].sum())
    if room:
        for word in order[~words[order] & (lengths[order] <= room)].tolist():
            if lengths[word] <= room:
                words[word] = True
                room -= int(lengths[word])
            if not room:
                return
    if not words.any():
        words[order[np.argmin(lengths[order])]] = True


class _Stream:
    """Philox random numbers by key; numpy guarantees that the raw words never change (NEP 19)."""

    def __init__(self) -> None:
        self._source: Any = np.random.Philox(0)
        self._state = self._source.state

    def uniform(self, key: npt.NDArray[np.uint64], count: int) -> npt.NDArray[np.float64]:
        # Setting the state takes a quarter of the time of making a generator.
        state = {"counter": np.zeros(4, dtype=np.uint64), "key": key}
        self._source.state = {**self._state, "state": state}
        numbers: npt.NDArray[np.float64] = (self._source.random_raw(count) >> 11) * 2.0**-53
        return numbers
