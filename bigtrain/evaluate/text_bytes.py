"""How much text tokens stand for."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bigtrain.data.microbatch import Microbatch
from data_tools.tokenizer import Tokenizer


def count_text(microbatches: Sequence[Microbatch], tokenizer: Tokenizer) -> tuple[int, int]:
    """Counts the bytes and the document ends among the targets that count.

    The bytes are those of the UTF-8 of the decoded targets: special tokens decode to nothing, and a
    byte that is no UTF-8 counts as one byte.

    Returns:
        The number of bytes, and of end-of-document tokens.
    """
    size = ends = 0
    for microbatch in microbatches:
        for inputs, targets, weights in zip(
            microbatch.tokens, microbatch.targets, microbatch.weights, strict=True
        ):
            counted = np.flatnonzero(weights.numpy() > 0)
            ends += int(np.count_nonzero(targets.numpy()[counted] == tokenizer.special.eos))
            for before, part in _parts(inputs.numpy(), targets.numpy(), counted, tokenizer):
                size += _size(tokenizer, [*before, *part]) - _size(tokenizer, before)
    return size, ends


def _parts(
    inputs: NDArray[np.int64],
    targets: NDArray[np.int64],
    counted: NDArray[np.intp],
    tokenizer: Tokenizer,
) -> Iterator[tuple[list[int], list[int]]]:
    """Consecutive targets of one document, each with the token before them, if there is one.

    A tokenizer drops the space in front of a text that it decodes, which is a space of the text
    unless the text begins there.
    """
    special = tokenizer.special_ids()
    begins = np.isin(inputs[counted], special)
    splits = np.flatnonzero((np.diff(counted, prepend=-1) != 1) | begins)
    for positions in np.split(counted, splits):
        if len(positions):
            first = int(inputs[positions[0]])
            yield [] if first in special else [first], targets[positions].tolist()


def _size(tokenizer: Tokenizer, ids: list[int]) -> int:
    return len(tokenizer.decode(ids).encode("utf-8", "surrogateescape"))
