"""One forward pass of a GPT or a BERT: microbatch in, output and loss function out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from bigtrain.config import RunConfig
from bigtrain.data.microbatch import Microbatch, PairMicrobatch
from bigtrain.models.loss import token_hits, token_losses
from bigtrain.parallel.schedule import ForwardStep, Report

LOSS_SUM, WEIGHT_SUM = "loss_sum", "weight_sum"
SENTENCE_LOSS_SUM, SENTENCE_COUNT = "sentence_loss_sum", "sentence_count"
TOKENS = "tokens"
HITS, SENTENCE_HITS, TARGET_COUNTS = "hits", "sentence_hits", "target_counts"


def make_forward_step(
    config: RunConfig,
    *,
    device: torch.device,
    loss_scale: float | torch.Tensor,
    sentence_scale: float = 1.0,
    before: Callable[[int, int], None] | None = None,
    measure: bool = False,
) -> ForwardStep:
    """Makes the function that the schedule calls for each microbatch on each stage.

    What is reported are sums, fp32: LOSS_SUM (nats) and WEIGHT_SUM of the tokens; of a BERT also
    SENTENCE_LOSS_SUM (nats) and SENTENCE_COUNT of the pairs and all TOKENS but padding, and with
    ``measure`` HITS and SENTENCE_HITS (what was guessed right) and TARGET_COUNTS, ``[vocabulary]``.

    Args:
        config: The run.
        device: Where the model lives.
        loss_scale: What a microbatch's summed loss is multiplied by for the backward pass; a
            tensor where reading the number would mean waiting for the device.
        sentence_scale: The same for the loss of a BERT's second head.
        before: Called before each forward pass with the numbers of its microbatch and its chunk.
        measure: Whether a BERT's guesses are held against the truth.
    """
    vocab_size = config.model.vocab_size

    def gpt(microbatch: Microbatch, stage: torch.nn.Module) -> Any:
        documents = microbatch.documents
        output = stage(
            microbatch.tokens.to(device),
            _positions(microbatch, device),
            None if documents is None else documents.to(device),
        )
        return output, partial(
            _gpt_loss,
            targets=microbatch.targets.to(device),
            weights=microbatch.weights.to(device),
            vocab_size=vocab_size,
            z_loss=config.optim.z_loss,
            scale=loss_scale,
        )

    def bert(microbatch: PairMicrobatch, stage: torch.nn.Module) -> Any:
        output = stage(
            microbatch.tokens.to(device),
            microbatch.padding_mask.to(device),
            microbatch.token_types.to(device),
        )
        return output, partial(
            _bert_loss,
            targets=microbatch.targets.to(device),
            weights=microbatch.weights.to(device),
            is_random=microbatch.is_random.to(device),
            pair_weights=microbatch.pair_weights.to(device),
            tokens=microbatch.padding_mask.sum().to(device),
            vocab_size=vocab_size,
            scale=loss_scale,
            sentence_scale=sentence_scale,
            measure=measure,
        )

    forward: Callable[..., Any] = bert if config.model.kind == "bert" else gpt

    def forward_step(microbatches: Any, stage: torch.nn.Module) -> Any:
        number, microbatch = next(microbatches)
        if before is not None:
            before(number, stage.vp_stage or 0)  # type: ignore[arg-type]
        return forward(microbatch, stage)

    return forward_step


def _positions(microbatch: Microbatch, device: torch.device) -> torch.Tensor:
    if microbatch.positions is not None:
        return microbatch.positions.to(device)
    rows, length = microbatch.tokens.shape
    return torch.arange(length, device=device).expand(rows, length)


def _gpt_loss(
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
    # megatron-core divides the first in place: the report is a tensor of its own.
    return minimized * scale, {LOSS_SUM: total.detach().clone(), WEIGHT_SUM: weights.sum()}


def _bert_loss(
    output: tuple[torch.Tensor, torch.Tensor],
    *,
    targets: torch.Tensor,
    weights: torch.Tensor,
    is_random: torch.Tensor,
    pair_weights: torch.Tensor,
    tokens: torch.Tensor,
    vocab_size: int,
    scale: float | torch.Tensor,
    sentence_scale: float,
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
    return total * scale + sentence_total * sentence_scale, report
