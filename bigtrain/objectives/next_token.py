"""Next-token prediction: cross entropy of the token after each token, and an optional z-loss."""

from functools import partial
from typing import Any

import torch

from bigtrain.config import RunConfig
from bigtrain.config.model import ModelConfig
from bigtrain.data.microbatch import Microbatch
from bigtrain.models.loss import token_losses
from bigtrain.objectives.objective import (
    LOSS_SUM,
    WEIGHT_SUM,
    LossFunction,
    LossScales,
    Sizes,
    SumValues,
    mean,
)
from bigtrain.parallel.schedule import Report


class NextToken:
    """Reports the loss sum and the weight sum of the targets."""

    def model_inputs(self, microbatch: Microbatch, device: torch.device) -> tuple[Any, ...]:
        """Tokens, positions, and document numbers if attention stays within documents."""
        documents = microbatch.documents
        return (
            microbatch.tokens.to(device),
            _positions(microbatch, device),
            None if documents is None else documents.to(device),
        )

    def loss_function(
        self,
        microbatch: Microbatch,
        config: RunConfig,
        *,
        device: torch.device,
        scales: LossScales,
        measure: bool,
    ) -> LossFunction:
        """Makes the loss function of logits, ``[batch, sequence, padded vocabulary / tensor]``."""
        return partial(
            _loss,
            targets=microbatch.targets.to(device),
            weights=microbatch.weights.to(device),
            vocab_size=config.model.vocab_size,
            z_loss=config.optim.z_loss,
            scale=scales.target,
        )

    def report_sizes(self, model: ModelConfig, *, measure: bool) -> Sizes:
        """One number for each sum, in training and in validation."""
        return {LOSS_SUM: 1, WEIGHT_SUM: 1}

    def figures(self, sums: SumValues) -> dict[str, float]:
        """``loss``: the mean over targets, in nats."""
        return {"loss": mean(sums, LOSS_SUM, WEIGHT_SUM)}

    def num_tokens(self, sums: SumValues) -> int:
        """The number of targets whose weight is 1."""
        return int(sums[WEIGHT_SUM][0])


def _positions(microbatch: Microbatch, device: torch.device) -> torch.Tensor:
    if microbatch.positions is not None:
        return microbatch.positions.to(device)
    rows, length = microbatch.tokens.shape
    return torch.arange(length, device=device).expand(rows, length)


def _loss(
    logits: torch.Tensor,
    *,
    targets: torch.Tensor,
    weights: torch.Tensor,
    vocab_size: int,
    z_loss: float,
    scale: float | torch.Tensor,
) -> tuple[torch.Tensor, Report]:
    losses, extra = token_losses(logits, targets, vocab_size=vocab_size, z_loss=z_loss)
    total = (losses * weights).sum()
    minimized = total if extra is None else total + (extra * weights).sum()
    # megatron-core divides the loss in place, so the report needs a tensor of its own.
    return minimized * scale, {LOSS_SUM: total.detach().clone(), WEIGHT_SUM: weights.sum()}
