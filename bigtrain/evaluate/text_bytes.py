"""How much text tokens stand for."""

from collections.abc import Sequence

import torch

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
        for targets, weights in zip(microbatch.targets, microbatch.weights, strict=True):
            counted = targets[weights > 0]
            ends += int(torch.count_nonzero(counted == tokenizer.special.eos))
            text = tokenizer.decode(counted.numpy())
            size += len(text.encode("utf-8", "surrogateescape"))
    return size, ends
