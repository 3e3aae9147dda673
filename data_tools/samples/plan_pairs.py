"""Plans sentence pairs for BERT from the sentences of documents, as the authors of BERT did.

The algorithm is that of Devlin et al., "BERT", arXiv 1810.04805, appendix A.2, and of the program
published with the paper. Consecutive sentences up to a target length are split at random into A and
B. With probability 0.5, B is replaced by text of another document, and the sentences of the old B
are used for the next pair.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

SPECIAL_TOKENS = 3
"""[CLS] A [SEP] B [SEP]."""
BUCKET_STEP = 8
SHORTEST_SEQUENCE = 8

Bounds = Sequence[int]
"""The sentence starts of a document in the token stream, then the end of its last sentence."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two segments of the token stream, without end-of-document tokens."""

    a_start: int
    a_length: int
    b_start: int
    b_length: int
    is_random: bool
    """Whether B is from another document than A."""


class RandomStream:
    """The random numbers of one document for one purpose: a Philox generator with its own key.

    Its raw output is the same in every version of numpy (NEP 19).
    """

    _BLOCK = 64

    def __init__(self, purpose: str, number: int) -> None:
        first = int.from_bytes(blake2b(purpose.encode(), digest_size=8).digest(), "little")
        self._source = np.random.Philox(key=np.array([first, number], dtype=np.uint64))
        self._left: list[int] = []

    def uniform(self) -> float:
        """A random number from 0 to below 1."""
        return float((self._word() >> 11) * 2.0**-53)

    def below(self, stop: int) -> int:
        """A random integer from 0 to below `stop`."""
        return int(self.uniform() * stop)

    def heads(self, tosses: int) -> int:
        """The number of heads in `tosses` random tosses of a fair coin."""
        found = 0
        for first in range(0, tosses, 64):
            found += (self._word() & ((1 << min(64, tosses - first)) - 1)).bit_count()
        return found

    def _word(self) -> int:
        if not self._left:
            self._left = self._source.random_raw(self._BLOCK).tolist()
        return self._left.pop()


class PairMaker:
    """Makes the pairs of some documents, half of them with a random B.

    If only the last sentence of a document is left, its pair must have a random B. After each such
    pair, the next pair that could have either kind of B is not random, so that both kinds are
    equally frequent.
    """

    def __init__(self, *, sequence_length: int, short_probability: float) -> None:
        """Sets the lengths of pairs.

        Args:
            sequence_length: The maximum number of tokens of a pair, including special tokens.
            short_probability: The probability that a document has a random, shorter target length.
        """
        self._longest = sequence_length - SPECIAL_TOKENS
        self._short_probability = short_probability
        self._extra_random = 0

    def pairs(
        self, document: Bounds, rng: RandomStream, *, choose_other: Callable[[], Bounds]
    ) -> Iterator[Pair]:
        """Yields the pairs of one document.

        Args:
            document: Its sentences.
            rng: Its random numbers.
            choose_other: Returns the sentences of a random other document.
        """
        target = self._longest
        if rng.uniform() < self._short_probability:
            target = 2 + rng.below(self._longest - 1)
        last = len(document) - 1
        first = 0
        while first < last:
            stop = min(bisect_left(document, document[first] + target, first + 1), last)
            split = first + 1
            if stop > split:
                split += rng.below(stop - split)
            a = (document[first], document[split])
            if self._is_random(stop - first, rng):
                b = _text_from(choose_other(), target - (a[1] - a[0]), rng)
                yield self._fit(a, b, rng, is_random=True)
                first = split
            else:
                yield self._fit(a, (document[split], document[stop]), rng, is_random=False)
                first = stop

    def _is_random(self, num_sentences: int, rng: RandomStream) -> bool:
        if num_sentences == 1:
            self._extra_random += 1
            return True
        if self._extra_random:
            self._extra_random -= 1
            return False
        return rng.uniform() < 0.5

    def _fit(
        self, a: tuple[int, int], b: tuple[int, int], rng: RandomStream, *, is_random: bool
    ) -> Pair:
        """Makes a pair that fits into a sample: cuts tokens at randomly chosen ends of A and B."""
        a_length, b_length = a[1] - a[0], b[1] - b[0]
        a_cut, b_cut = plan_cuts(a_length, b_length, longest=self._longest)
        return Pair(
            a_start=a[0] + rng.heads(a_cut),
            a_length=a_length - a_cut,
            b_start=b[0] + rng.heads(b_cut),
            b_length=b_length - b_cut,
            is_random=is_random,
        )


def plan_cuts(a_length: int, b_length: int, *, longest: int) -> tuple[int, int]:
    """How many tokens to cut from A and B; each token is cut from the longer one (B in a tie)."""
    excess = max(0, a_length + b_length - longest)
    until_equal = min(excess, abs(a_length - b_length))
    a_more, b_more = (excess - until_equal) // 2, (excess - until_equal + 1) // 2
    if a_length > b_length:
        return until_equal + a_more, b_more
    return a_more, until_equal + b_more


def padded_length(pair: Pair, *, sequence_length: int) -> int:
    """The length of a pair with special tokens, padded to a multiple of 8 if that fits."""
    length = pair.a_length + pair.b_length + SPECIAL_TOKENS
    return min(-(-length // BUCKET_STEP) * BUCKET_STEP, sequence_length)


def _text_from(document: Bounds, target: int, rng: RandomStream) -> tuple[int, int]:
    """Complete sentences of a document from a random one on, with at least `target` tokens."""
    last = len(document) - 1
    first = rng.below(last)
    stop = bisect_left(document, document[first] + max(1, target), first + 1)
    return document[first], document[min(stop, last)]
