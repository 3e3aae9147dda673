"""The tensors of one microbatch, and the batch of one rank."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch


@dataclass(frozen=True, slots=True)
class Microbatch:
    """The inputs and targets of one forward pass of a GPT."""

    tokens: torch.Tensor
    """``[micro batch, sequence]``, int64."""
    targets: torch.Tensor
    """The token after each token, same shape."""
    weights: torch.Tensor
    """1.0 where the loss of a target counts, 0.0 where it does not; same shape, fp32."""
    positions: torch.Tensor | None = None
    """Position in its document, same shape; None where it is the position in the row."""
    documents: torch.Tensor | None = None
    """Number of each token's document in the row; None where attention crosses documents."""


@dataclass(frozen=True, slots=True)
class PairMicrobatch:
    """The inputs and targets of one forward pass of BERT.

    All but the last two are ``[micro batch, padded length]``.
    """

    tokens: torch.Tensor
    """``[CLS] A [SEP] B [SEP]``, masked, int64."""
    token_types: torch.Tensor
    """0 in the first sentence and padding, 1 in the second."""
    padding_mask: torch.Tensor
    """True at tokens, False in padding."""
    targets: torch.Tensor
    """The original tokens."""
    weights: torch.Tensor
    """1.0 where a token is to be predicted, 0.0 elsewhere; fp32."""
    is_random: torch.Tensor
    """``[micro batch]``: 1 where the second sentence is from another document."""
    pair_weights: torch.Tensor
    """``[micro batch]``: 1.0 where the pair counts, 0.0 where it does not; fp32."""


@dataclass(frozen=True, slots=True)
class LabelMicrobatch:
    """The inputs and classes of one forward pass over labelled text.

    The first three are ``[micro batch, padded length]``, the others ``[micro batch]``.
    """

    tokens: torch.Tensor
    """``[CLS] A [SEP] B [SEP]`` for BERT, ``A B`` for GPT, padded on the right; int64."""
    token_types: torch.Tensor
    """1 in the second text, else 0."""
    padding_mask: torch.Tensor
    """True at tokens, False in padding."""
    ends: torch.Tensor
    """The position of the last token of each row."""
    labels: torch.Tensor
    """The number of each row's class."""
    weights: torch.Tensor
    """1.0 where the row counts, 0.0 where it does not; fp32."""


AnyMicrobatch = TypeVar("AnyMicrobatch", Microbatch, PairMicrobatch, LabelMicrobatch)


@dataclass(frozen=True, slots=True)
class RankBatch(Generic[AnyMicrobatch]):
    """One rank's share of the batch of a step."""

    microbatches: list[AnyMicrobatch]
    num_targets: int | None
    """Targets that count in the whole batch, over all ranks; of labelled text, its rows. None for
    pairs: a rank has only the masks of its own pairs."""
