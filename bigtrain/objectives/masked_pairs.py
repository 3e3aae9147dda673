"""BERT's objective: predict masked tokens, and whether the second sentence follows the first."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from bigtrain.config import RunConfig
from bigtrain.config.model import ModelConfig
from bigtrain.data.microbatch import PairMicrobatch
from bigtrain.models.loss import token_hits, token_losses
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

SENTENCE_LOSS_SUM, SENTENCE_COUNT = "sentence_loss_sum", "sentence_count"
TOKENS = "tokens"
HITS, SENTENCE_HITS, TARGET_COUNTS = "hits", "sentence_hits", "target_counts"


class MaskedPairs:
    """Reports the loss and weight sums of masked tokens and of pairs, and the number of tokens.

    With ``measure`` it also reports HITS and SENTENCE_HITS, the numbers of correct predictions, and
    TARGET_COUNTS, ``[vocabulary]``: how often each token was masked.
    """

    def model_inputs(self, microbatch: PairMicrobatch, device: torch.device) -> tuple[Any, ...]:
        """Tokens, padding mask and token types."""
        return (
            microbatch.tokens.to(device),
            microbatch.padding_mask.to(device),
            microbatch.token_types.to(device),
        )

    def loss_function(
        self,
        microbatch: PairMicrobatch,
        config: RunConfig,
        *,
        device: torch.device,
        scales: LossScales,
        measure: bool,
    ) -> LossFunction:
        """Makes the loss function.

        Its input is the token logits, ``[batch, sequence, padded vocabulary / tensor]``, and the
        sentence logits, ``[batch, 2]``.
        """
        return partial(
            _loss,
            targets=microbatch.targets.to(device),
            weights=microbatch.weights.to(device),
            is_random=microbatch.is_random.to(device),
            pair_weights=microbatch.pair_weights.to(device),
            tokens=microbatch.padding_mask.sum().to(device),
            vocab_size=config.model.vocab_size,
            scales=scales,
            measure=measure,
        )

    def report_sizes(self, model: ModelConfig, *, measure: bool) -> Sizes:
        """One number for each sum; TARGET_COUNTS has one for each token of the vocabulary."""
        names = (LOSS_SUM, WEIGHT_SUM, SENTENCE_LOSS_SUM, SENTENCE_COUNT, TOKENS)
        measured = {HITS: 1, SENTENCE_HITS: 1, TARGET_COUNTS: model.vocab_size} if measure else {}
        return dict.fromkeys(names, 1) | measured

    def figures(self, sums: SumValues) -> dict[str, float]:
        """Losses in nats, and with ``measure`` accuracies as fractions.

        ``loss`` is the mean over masked tokens (``mlm_loss``) plus the mean over pairs
        (``sentence_loss``). ``commonest_accuracy`` is the accuracy of always predicting the
        most frequent target.
        """
        tokens = mean(sums, LOSS_SUM, WEIGHT_SUM)
        sentences = mean(sums, SENTENCE_LOSS_SUM, SENTENCE_COUNT)
        figures = {"loss": tokens + sentences, "mlm_loss": tokens, "sentence_loss": sentences}
        if HITS in sums:
            counts = sums[TARGET_COUNTS]
            figures["mlm_accuracy"] = mean(sums, HITS, WEIGHT_SUM)
            figures["commonest_accuracy"] = max(counts) / max(1.0, sum(counts))
            figures["sentence_accuracy"] = mean(sums, SENTENCE_HITS, SENTENCE_COUNT)
        return figures

    def num_tokens(self, sums: SumValues) -> int:
        """The number of tokens that the model read, without padding."""
        return int(sums[TOKENS][0])


def _loss(
    output: tuple[torch.Tensor, torch.Tensor],
    *,
    targets: torch.Tensor,
    weights: torch.Tensor,
    is_random: torch.Tensor,
    pair_weights: torch.Tensor,
    tokens: torch.Tensor,
    vocab_size: int,
    scales: LossScales,
    measure: bool,
) -> tuple[torch.Tensor, Report]:
    logits, sentence_logits = output
    losses, _ = token_losses(logits, targets, vocab_size=vocab_size)
    total = (losses * weights).sum()
    sentence_losses = F.cross_entropy(sentence_logits.float(), is_random, reduction="none")
    sentence_total = (sentence_losses * pair_weights).sum()
    report = {
        LOSS_SUM: total.detach().clone(),
        WEIGHT_SUM: weights.sum(),
        SENTENCE_LOSS_SUM: sentence_total.detach().clone(),
        SENTENCE_COUNT: pair_weights.sum(),
        TOKENS: tokens,
    }
    if measure:
        hits = token_hits(logits, targets, vocab_size=vocab_size)
        sentence_hits = sentence_logits.argmax(-1) == is_random
        counts = torch.zeros(vocab_size, device=weights.device)
        counts.index_add_(0, targets.reshape(-1), weights.reshape(-1))
        report |= {
            HITS: (hits * weights).sum(),
            SENTENCE_HITS: (sentence_hits * pair_weights).sum(),
            TARGET_COUNTS: counts,
        }
    return total * scales.target + sentence_total * scales.sample, report
