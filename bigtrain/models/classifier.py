"""Puts a classifier in place of the pretraining heads of a model's last chunk."""

from typing import Any

import torch
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region

from bigtrain.config import RunConfig

LEFT_OUT_HEADS = ("lm_head.", "output_layer.", "binary_head.")
"""Global names of the weights of pretraining heads, which a classifier does not have."""
NEW_HEAD = "classifier."
"""Global names of the weights that a classifier has besides those of the pretrained model."""


def add_classifier(chunk: Any, run: RunConfig, *, last: bool) -> None:
    """Changes a built chunk into a chunk of a classifier.

    A BERT classifies by its pooled first token, after dropout, as transformers'
    `BertForSequenceClassification`; a GPT by its last token and without a bias, as
    `GPT2ForSequenceClassification`. The chunk is called with tokens, padding mask, token types and
    the position of each row's last token; the last stage returns ``[batch, classes]``.

    Args:
        chunk: A chunk of a GPT or BERT; changed in place.
        run: The run's config.
        last: Whether it is the last chunk of the model.
    """
    is_bert = run.model.traits.reads_pairs
    chunk.register_forward_pre_hook(_take_bert_inputs if is_bert else _take_gpt_inputs)
    # No output layer shares the embedding any more.
    chunk.share_embeddings_and_output_weights = False
    if not last:
        return
    for name in LEFT_OUT_HEADS:
        if hasattr(chunk, name.removesuffix(".")):
            delattr(chunk, name.removesuffix("."))
    # Without the heads, megatron-core's chunk returns the hidden states of its last layer.
    chunk.post_process = False
    classes = len(run.objective.labels)
    chunk.classifier = torch.nn.Linear(run.model.hidden_size, classes, bias=is_bert)
    chunk.classifier_dropout = torch.nn.Dropout(run.model.dropout)
    chunk.register_forward_hook(_classify_first if is_bert else _classify_last)


def _take_bert_inputs(chunk: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    tokens, padding_mask, token_types, _ = inputs
    return tokens, padding_mask, token_types


def _take_gpt_inputs(chunk: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    tokens, _, _, ends = inputs
    chunk.row_ends = ends
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
    # Padding follows the tokens, and no token attends to what follows it.
    return tokens, positions, None


def _classify_first(chunk: Any, _: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """Maps hidden states, ``[sequence, batch, hidden]``, to logits, ``[batch, classes]``."""
    pooled = chunk.pooler(hidden_states, 0)
    logits: torch.Tensor = chunk.classifier(chunk.classifier_dropout(pooled))
    return logits


def _classify_last(chunk: Any, _: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """Maps hidden states, ``[sequence, batch, hidden]``, to logits, ``[batch, classes]``."""
    if chunk.config.sequence_parallel:
        # Every tensor rank computes the same logits, so that their gradients need no sum.
        hidden_states = gather_from_sequence_parallel_region(
            hidden_states, tensor_parallel_output_grad=False
        )
    rows = torch.arange(hidden_states.shape[1], device=hidden_states.device)
    logits: torch.Tensor = chunk.classifier(hidden_states[chunk.row_ends, rows])
    return logits
