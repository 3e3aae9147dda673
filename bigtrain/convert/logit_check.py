"""Compares the logits of a checkpoint's model with those of transformers' model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.config.model import ModelConfig
from bigtrain.convert.checkpoint_model import CheckpointModel
from bigtrain.convert.families import hugging_face_outputs
from bigtrain.plan.parameters import count_parameters
from data_tools.tokenizer import Tokenizer

TOLERANCE = 1e-4
"""Largest difference of two logits in fp32, if no logit is larger than 1; else times the largest
logit."""
WHOLE_MODEL_BYTES = 2**30
"""A model that is larger in fp32 is compared layer by layer: both sides hold one layer at a time,
besides embeddings and heads, and one side after the other."""
_TEXTS_LAYER_BY_LAYER = 2
_TOKENS_LAYER_BY_LAYER = 256


@dataclass(frozen=True, slots=True)
class LogitComparison:
    """The largest difference over all logits that were compared."""

    largest: float
    """Largest absolute difference; NaN if a logit is NaN."""
    scale: float
    """Largest absolute logit."""
    compared: int
    """Number of logits."""
    layer_by_layer: bool

    @property
    def is_equal(self) -> bool:
        """Whether the logits are equal up to rounding."""
        return self.largest <= TOLERANCE * max(1.0, self.scale)


def is_compared_layer_by_layer(model: ModelConfig) -> bool:
    """Whether two copies of the model are too large to hold in memory."""
    return 4 * count_parameters(model).padded_total > WHOLE_MODEL_BYTES


@torch.no_grad()
def compare_logits(
    checkpoint: Folder,
    model: ModelConfig,
    build_theirs: Callable[[bool], Any],
    sequences: Sequence[torch.Tensor],
    *,
    rounding: torch.dtype = torch.float32,
) -> LogitComparison:
    """Runs both models on the same tokens.

    Args:
        checkpoint: A committed checkpoint.
        model: Its model.
        build_theirs: Builds transformers' model in fp32; its argument is whether to hold only one
            layer in memory.
        sequences: Token ids, ``[sequence]`` each; of a model that is compared layer by layer only
            a few short ones are used, because each needs all weights to be read.
        rounding: The type of the weights in the other model.
    """
    slowly = is_compared_layer_by_layer(model)
    if slowly:
        shortened = (sequence[:_TOKENS_LAYER_BY_LAYER] for sequence in sequences)
        sequences = sorted(shortened, key=len, reverse=True)[:_TEXTS_LAYER_BY_LAYER]
    expected = _ours(checkpoint, model, sequences, layer_by_layer=slowly, rounding=rounding)
    if slowly:
        expected = iter(list(expected))  # Never a layer of both sides at a time.
    theirs = build_theirs(slowly)
    largest, scale, compared = torch.zeros(()), 0.0, 0
    for sequence, outputs in zip(sequences, expected, strict=True):
        found = hugging_face_outputs(theirs, model, sequence[None])
        for one, other in zip(found, outputs, strict=True):
            # torch.maximum keeps a NaN, which the built-in max would lose.
            largest = torch.maximum(largest, (one - other).abs().max())
            scale = max(scale, float(other.abs().max()))
            compared += other.numel()
    return LogitComparison(float(largest), scale, compared, slowly)


def _ours(
    checkpoint: Folder,
    model: ModelConfig,
    sequences: Sequence[torch.Tensor],
    *,
    layer_by_layer: bool,
    rounding: torch.dtype,
) -> Iterator[tuple[torch.Tensor, ...]]:
    with CheckpointModel(
        checkpoint, model, layer_by_layer=layer_by_layer, rounding=rounding
    ) as ours:
        for sequence in sequences:
            yield ours.outputs(sequence[None])


def token_sequences(
    tokenizer: Tokenizer, texts: Sequence[str], *, max_length: int
) -> list[torch.Tensor]:
    """The ids of texts, cut to the length of the model; texts without ids are left out."""
    return [
        torch.from_numpy(ids[:max_length]).long()
        for ids in tokenizer.encode_batch(texts)
        if len(ids) > 0
    ]
