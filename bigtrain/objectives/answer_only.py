"""Next-token prediction of answers alone: the tokens of prompts are read, and not predicted."""

from typing import Any

import torch

from bigtrain.config import RunConfig
from bigtrain.config.model import ModelConfig
from bigtrain.data.microbatch import Microbatch
from bigtrain.models.loss import token_hits
from bigtrain.objectives.next_token import NextToken
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

HITS = "hits"


class AnswerOnly:
    """Reports the loss sum of the tokens of answers and their number; with ``measure`` also HITS.

    The microbatches are packed rows of `data.packing=answers`: their weights are 1 at the tokens of
    answers, and attention stays inside a row of the table.
    """

    def __init__(self) -> None:
        self._next_token = NextToken()

    def model_inputs(self, microbatch: Microbatch, device: torch.device) -> tuple[Any, ...]:
        """Tokens, positions and document numbers."""
        return self._next_token.model_inputs(microbatch, device)

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
        next_token = self._next_token.loss_function(
            microbatch, config, device=device, scales=scales, measure=measure
        )
        if not measure:
            return next_token
        targets, weights = microbatch.targets.to(device), microbatch.weights.to(device)

        def measured(logits: torch.Tensor) -> tuple[torch.Tensor, Report]:
            loss, report = next_token(logits)
            hits = token_hits(logits, targets, vocab_size=config.model.vocab_size)
            return loss, report | {HITS: (hits * weights).sum()}

        return measured

    def report_sizes(self, model: ModelConfig, *, measure: bool) -> Sizes:
        """One number for each sum."""
        return dict.fromkeys((LOSS_SUM, WEIGHT_SUM, *([HITS] if measure else [])), 1)

    def figures(self, sums: SumValues) -> dict[str, float]:
        """``loss``: the mean over the tokens of answers, in nats; ``answer_accuracy``: a fraction.

        An answer token is a hit if it is the most probable one after the right tokens before it.
        """
        figures = {"loss": mean(sums, LOSS_SUM, WEIGHT_SUM)}
        if HITS in sums:
            figures["answer_accuracy"] = mean(sums, HITS, WEIGHT_SUM)
        return figures

    def num_tokens(self, sums: SumValues) -> int:
        """The number of tokens of answers."""
        return int(sums[WEIGHT_SUM][0])
