"""Windows of a corpus in which every token is predicted exactly once. No torch.

Window `k` predicts the tokens from `k * stride` on; it reads the token before each. The first token
of the corpus is predicted from an end-of-document token, which stood before each document in
training. Of overlapping windows, only the last `stride` tokens count, which have the most context;
of the first window all count. The last window is filled up with padding, which does not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bigtrain.data.token_rows import Rows, rows_of_stream
from data_tools.corpus import Corpus
from data_tools.tokenizer import SpecialIds


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of one corpus."""

    corpus: Corpus
    length: int
    """Tokens in a window."""
    stride: int
    """Tokens from one window to the next; at most the length."""
    special: SpecialIds
    separates_documents: bool = False
    """Whether attention stays inside documents, as data.document_attention says."""

    @property
    def count(self) -> int:
        """Number of windows."""
        return 1 + max(0, -(-(self.corpus.num_tokens - self.length) // self.stride))

    def read(self, numbers: Sequence[int]) -> Rows:
        """Reads windows; the arrays are ``[windows, length]``.

        Raises:
            InputError: The corpus is damaged.
        """
        pad = self.special.pad if self.special.pad >= 0 else self.special.eos
        stream = np.full((len(numbers), self.length + 1), pad, dtype=np.int64)
        weights = np.zeros((len(numbers), self.length), dtype=np.float32)
        for row, number in enumerate(numbers):
            first = number * self.stride
            stop = min(first + self.length, self.corpus.num_tokens)
            if first == 0:
                stream[row, 0] = self.special.eos
                stream[row, 1 : stop + 1] = self.corpus.read(0, stop)
            else:
                stream[row, : stop - first + 1] = self.corpus.read(first - 1, stop)
            repeated = self.length - self.stride if number else 0
            weights[row, repeated : stop - first] = 1.0
        end = self.special.eos if self.separates_documents else None
        return replace(rows_of_stream(stream, document_end=end), weights=weights)
