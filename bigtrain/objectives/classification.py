"""Classification: cross entropy of the class of each row, and the figures of a classifier."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from bigtrain.config import RunConfig
from bigtrain.config.model import ModelConfig
from bigtrain.data.microbatch import LabelMicrobatch
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

HITS, TOKENS, CONFUSION = "hits", "tokens", "confusion"


class Classification:
    """Reports the loss sum, the number of rows, of correct ones, and of tokens.

    With ``measure`` it also reports CONFUSION, ``[classes × classes]``: how many rows of a class
    (first index) are taken for a class (second index).
    """

    def __init__(self, labels: Sequence[str] = ()) -> None:
        """Names the classes, in the order of their numbers."""
        self._labels = tuple(labels)

    def model_inputs(self, microbatch: LabelMicrobatch, device: torch.device) -> tuple[Any, ...]:
        """Tokens, padding mask, token types, and where each row ends."""
        return (
            microbatch.tokens.to(device),
            microbatch.padding_mask.to(device),
            microbatch.token_types.to(device),
            microbatch.ends.to(device),
        )

    def loss_function(
        self,
        microbatch: LabelMicrobatch,
        config: RunConfig,
        *,
        device: torch.device,
        scales: LossScales,
        measure: bool,
    ) -> LossFunction:
        """Makes the loss function of logits, ``[batch, classes]``."""
        return partial(
            _loss,
            labels=microbatch.labels.to(device),
            weights=microbatch.weights.to(device),
            tokens=microbatch.padding_mask.sum().to(device),
            scale=scales.target,
            measure=measure,
        )

    def report_sizes(self, model: ModelConfig, *, measure: bool) -> Sizes:
        """One number for each sum; CONFUSION has one for each pair of classes."""
        sizes = dict.fromkeys((LOSS_SUM, WEIGHT_SUM, HITS, TOKENS), 1)
        return sizes | ({CONFUSION: len(self._labels) ** 2} if measure else {})

    def figures(self, sums: SumValues) -> dict[str, float]:
        """``loss`` (nats a row), ``accuracy``; with ``measure`` those of `confusion_figures`."""
        figures = {
            "loss": mean(sums, LOSS_SUM, WEIGHT_SUM),
            "accuracy": mean(sums, HITS, WEIGHT_SUM),
        }
        if CONFUSION in sums:
            figures |= confusion_figures(sums[CONFUSION], self._labels)
        return figures

    def num_tokens(self, sums: SumValues) -> int:
        """The number of tokens that the model read, without padding."""
        return int(sums[TOKENS][0])


def confusion_figures(counts: Sequence[float], labels: Sequence[str]) -> dict[str, float]:
    """Precision, recall and F1 of each class and their means over classes, and Matthews.

    ``precision/NAME`` and so on are of one class, ``precision``, ``recall`` and ``f1`` their
    unweighted means (macro). A fraction without a denominator is 0, as in scikit-learn.
    ``matthews`` is the correlation for any number of classes (Gorodkin, "Comparing two K-category
    assignments by a K-category correlation coefficient", 2004).

    Args:
        counts: Row-major ``[classes × classes]``: rows by class, then by predicted class.
        labels: The names of the classes.
    """
    size = len(labels)
    rows = [list(counts[first : first + size]) for first in range(0, size * size, size)]
    true = [sum(row) for row in rows]
    predicted = [sum(column) for column in zip(*rows, strict=True)]
    right = [rows[number][number] for number in range(size)]
    figures: dict[str, float] = {}
    columns = {
        "precision": [_ratio(r, p) for r, p in zip(right, predicted, strict=True)],
        "recall": [_ratio(r, t) for r, t in zip(right, true, strict=True)],
        "f1": [_ratio(2 * r, t + p) for r, t, p in zip(right, true, predicted, strict=True)],
    }
    for name, values in columns.items():
        figures[name] = sum(values) / size
    figures["matthews"] = _matthews(true, predicted, right)
    for name, values in columns.items():
        figures |= {f"{name}/{label}": it for label, it in zip(labels, values, strict=True)}
    return figures


def _matthews(true: Sequence[float], predicted: Sequence[float], right: Sequence[float]) -> float:
    total = sum(true)
    agreement = sum(right) * total - sum(t * p for t, p in zip(true, predicted, strict=True))
    of_true = total**2 - sum(t**2 for t in true)
    of_predicted = total**2 - sum(p**2 for p in predicted)
    return _ratio(agreement, math.sqrt(of_true * of_predicted))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _loss(
    logits: torch.Tensor,
    *,
    labels: torch.Tensor,
    weights: torch.Tensor,
    tokens: torch.Tensor,
    scale: float | torch.Tensor,
    measure: bool,
) -> tuple[torch.Tensor, Report]:
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    total = (losses * weights).sum()
    guesses = logits.argmax(-1)
    report = {
        # megatron-core divides the loss in place, so the report needs a tensor of its own.
        LOSS_SUM: total.detach().clone(),
        WEIGHT_SUM: weights.sum(),
        HITS: ((guesses == labels) * weights).sum(),
        TOKENS: tokens,
    }
    if measure:
        classes = logits.shape[-1]
        counts = torch.zeros(classes**2, device=weights.device)
        report[CONFUSION] = counts.index_add_(0, labels * classes + guesses, weights)
    return total * scale, report
