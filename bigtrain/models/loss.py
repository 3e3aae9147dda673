"""Cross entropy over a vocabulary that tensor ranks share and that is padded at its end."""

import torch
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

from bigtrain.parallel.groups import tensor_parallel_rank


def token_losses(logits: torch.Tensor, targets: torch.Tensor, *, vocab_size: int) -> torch.Tensor:
    """The negative log-likelihood of each target, in nats.

    Args:
        logits: This tensor rank's columns, ``[batch, sequence, padded vocabulary / tensor]``.
        targets: ``[batch, sequence]``.
        vocab_size: Tokens of the tokenizer; later columns are padding and take no part.

    Returns:
        ``[batch, sequence]``, fp32, the same on every tensor rank.
    """
    columns = logits.shape[-1]
    real = vocab_size - tensor_parallel_rank() * columns
    logits = logits.float()
    if real < columns:
        padding = torch.arange(columns, device=logits.device) >= real
        logits = logits.masked_fill(padding, torch.finfo(logits.dtype).min)
    return vocab_parallel_cross_entropy(logits, targets)
