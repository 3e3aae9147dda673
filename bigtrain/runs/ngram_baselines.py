"""Losses of unigram and bigram models, which a trained model should beat. No torch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_tools.corpus import Corpus

MAX_TRAINING_TOKENS = 50_000_000

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Baselines:
    """Cross entropies in nats per token, on the tokens of the validation loss."""

    unigram: float
    bigram: float
    training_tokens: int
    """Tokens counted, from the start of the training corpus."""


def count_baselines(
    train: Corpus, validation: Corpus, *, sequence_length: int, samples: int | None
) -> Baselines:
    """Fits a unigram and a bigram model on ``train`` and measures them on ``validation``.

    The unigram model adds one to every count; the bigram model is Witten–Bell's interpolation with
    it (Witten & Bell, "The zero-frequency problem", IEEE Trans. Inf. Theory 37, 1991, method C).

    Args:
        train: The corpus to count, up to ``MAX_TRAINING_TOKENS``.
        validation: The corpus to measure on: the targets of its first windows.
        sequence_length: Tokens in a window.
        samples: Number of windows in the validation loss; None means all.
    """
    counted = min(train.num_tokens, MAX_TRAINING_TOKENS)
    tokens = train.read(0, counted).astype(np.int64)
    windows = (validation.num_tokens - 1) // sequence_length
    windows = min(windows, samples or windows)
    measured = validation.read(0, windows * sequence_length + 1).astype(np.int64)
    vocab_size = train.manifest.tokenizer.vocab_size
    unigram = _unigram(tokens, vocab_size)
    return Baselines(
        unigram=float(-np.log(unigram[measured[1:]]).mean()),
        bigram=float(-np.log(_bigram(tokens, measured, unigram, vocab_size)).mean()),
        training_tokens=counted,
    )


def _unigram(tokens: Tokens, vocab_size: int) -> npt.NDArray[np.float64]:
    counts = np.bincount(tokens, minlength=vocab_size) + 1
    return np.asarray(counts / counts.sum())


def _bigram(
    tokens: Tokens, measured: Tokens, unigram: npt.NDArray[np.float64], vocab_size: int
) -> npt.NDArray[np.float64]:
    """Probability of each measured token (but the first) after the one before it."""
    pairs, counts = np.unique(tokens[:-1] * vocab_size + tokens[1:], return_counts=True)
    followers = np.bincount(pairs // vocab_size, minlength=vocab_size)
    seen = np.bincount(tokens[:-1], minlength=vocab_size)
    wanted = measured[:-1] * vocab_size + measured[1:]
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    count = np.where(pairs[place] == wanted, counts[place], 0)
    before, after = measured[:-1], measured[1:]
    # A context that was never seen has no followers: only the unigram model is used.
    kinds = np.maximum(followers[before], 1)
    return np.asarray((count + kinds * unigram[after]) / (seen[before] + kinds))
