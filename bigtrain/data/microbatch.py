"""What a forward pass reads, as tensors."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch


@dataclass(frozen=True, slots=True)
class Microbatch:
    """What one forward pass of a GPT reads."""

    tokens: torch.Tensor
    """``[micro batch, sequence]``, int64."""
    targets: torch.Tensor
    """The token after each, same shape."""
    weights: torch.Tensor
    """1.0 where the loss of a target counts, 0.0 where it does not; same shape, fp32."""
    positions: torch.Tensor | None = None
    """Position in its document, same shape; None where they are those in the row."""
    documents: torch.Tensor | None = None
    """Which document of the row each token is of; None where attention crosses documents."""


@dataclass(frozen=True, slots=True)
class PairMicrobatch:
    """What one forward pass of BERT reads; all but the last two are ``[micro batch, padded]``."""

    tokens: torch.Tensor
    """``[CLS] A [SEP] B [SEP]`` with masks, int64."""
    token_types: torch.Tensor
    """0 in the first sentence and padding, 1 in the second."""
    padding_mask: torch.Tensor
    """True at tokens, False in padding."""
    targets: torch.Tensor
    """The tokens as they were."""
    weights: torch.Tensor
    """1.0 where a token is to be guessed, 0.0 elsewhere; fp32."""
    is_random: torch.Tensor
    """``[micro batch]``: 1 where the second sentence is from another document."""
    pair_weights: torch.Tensor
    """``[micro batch]``: 1.0 where the pair counts, 0.0 where it does not; fp32."""


AnyMicrobatch = TypeVar("AnyMicrobatch", Microbatch, PairMicrobatch)


@dataclass(frozen=True, slots=True)
class Batch(Generic[AnyMicrobatch]):
    """One rank's share of the batch of a step."""

    microbatches: list[AnyMicrobatch]
    num_targets: int | None
    """Targets that count in the whole batch, over all ranks, known before the first forward pass.
    None for pairs, where each rank knows its own masks alone."""
