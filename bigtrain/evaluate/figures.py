"""The figures of one corpus, from sums over its tokens. No torch."""

import math
from dataclasses import dataclass


class EvaluationError(ValueError):
    """Nothing can be evaluated; the message is one line and says why."""


@dataclass(frozen=True, slots=True)
class TokenSums:
    """Sums over the tokens that a causal model predicted."""

    loss: float = 0.0
    """Sum of the negative log-likelihoods, in nats."""
    tokens: int = 0
    """Tokens that were predicted."""
    document_ends: int = 0
    """How many of them end a document; they are no text."""
    bytes: int = 0
    """Bytes of UTF-8 that the tokens decode to; special tokens decode to none."""

    def __add__(self, other: "TokenSums") -> "TokenSums":
        return TokenSums(
            self.loss + other.loss,
            self.tokens + other.tokens,
            self.document_ends + other.document_ends,
            self.bytes + other.bytes,
        )

    def figures(self) -> dict[str, float]:
        """The figures of the result file, which `bigtrain/README.md` describes."""
        loss = self.loss / max(1, self.tokens)
        return {
            "tokens": self.tokens,
            "document_ends": self.document_ends,
            "bytes": self.bytes,
            "loss": loss,
            "perplexity": perplexity(loss),
            "bits_per_byte": self.loss / math.log(2) / self.bytes if self.bytes else math.nan,
        }


def perplexity(loss: float) -> float:
    """The perplexity of a loss in nats per token; infinite where it exceeds a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
