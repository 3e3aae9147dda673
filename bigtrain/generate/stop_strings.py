"""Ends a text before the first of some strings."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria


class StopStrings(StoppingCriteria):
    """Ends each row of a batch whose new text contains one of the strings.

    transformers' own StopStringCriteria looks at the vocabulary, not at the text: it ends a text at
    once if a string begins in the prompt, and misses strings of characters that are several byte
    tokens.
    """

    def __init__(
        self, stop: Sequence[str], decode: Callable[[Sequence[int]], str], *, start: int
    ) -> None:
        """Stores the strings.

        Args:
            stop: The strings.
            decode: Turns ids into text.
            start: The number of ids of the prompt, with its padding.
        """
        self._stop, self._decode, self._start = stop, decode, start

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether each row is done.

        Args:
            input_ids: ``[rows, tokens]``, with the prompt.
            scores: Unused.
            **kwargs: Unused.

        Returns:
            ``[rows]``, bool.
        """
        texts = (self._decode(row) for row in input_ids[:, self._start :].tolist())
        done = [any(each in text for each in self._stop) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string."""
    found = [at for at in (text.find(each) for each in stop) if at >= 0]
    return text[: min(found)] if found else text
