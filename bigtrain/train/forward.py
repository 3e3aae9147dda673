"""One forward pass of a GPT: microbatch in, output and loss function out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bigtrain.data.microbatch import Microbatch
from bigtrain.models.loss import token_losses
from bigtrain.parallel.schedule import ForwardStep

LOSS_SUM = "loss_sum"
WEIGHT_SUM = "weight_sum"


def gpt_forward_step(
    *,
    vocab_size: int,
    device: torch.device,
    loss_scale: float,
    before: Callable[[int, int], None] | None = None,
) -> ForwardStep:
    """Makes the function that the schedule calls for each microbatch on each stage.

    Args:
        vocab_size: Tokens of the tokenizer.
        device: Where the model lives.
        loss_scale: What a microbatch's summed loss is multiplied by for the backward pass.
        before: Called before each forward pass with the numbers of its microbatch and its chunk.
    """

    def forward_step(microbatches: Any, stage: torch.nn.Module) -> Any:
        number, microbatch = next(microbatches)
        if before is not None:
            before(number, stage.vp_stage or 0)
        tokens = microbatch.tokens.to(device)
        output = stage(tokens, _positions(microbatch, device), _mask(microbatch, device))
        return output, partial(
            _loss,
            targets=microbatch.targets.to(device),
            weights=microbatch.weights.to(device),
            vocab_size=vocab_size,
            scale=loss_scale,
        )

    return forward_step


def _positions(microbatch: Microbatch, device: torch.device) -> torch.Tensor:
    if microbatch.positions is not None:
        return microbatch.positions.to(device)
    rows, length = microbatch.tokens.shape
    return torch.arange(length, device=device).expand(rows, length)


def _mask(microbatch: Microbatch, device: torch.device) -> torch.Tensor | None:
    """Where attention stays inside documents: ``[micro batch, 1, query, key]``, True may attend."""
    if microbatch.documents is None:
        return None
    documents = microbatch.documents.to(device)
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same.tril()


def _loss(
    logits: torch.Tensor,
    *,
    targets: torch.Tensor,
    weights: torch.Tensor,
    vocab_size: int,
    scale: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    total = (token_losses(logits, targets, vocab_size=vocab_size) * weights).sum()
    # megatron-core divides the first in place: the report is a tensor of its own.
    return total * scale, {LOSS_SUM: total.detach().clone(), WEIGHT_SUM: weights.sum()}
