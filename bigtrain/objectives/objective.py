"""The interface of a training objective: from a microbatch to a loss, reported sums and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from bigtrain.config import RunConfig
from bigtrain.config.model import ModelConfig
from bigtrain.parallel.schedule import Report

LOSS_SUM, WEIGHT_SUM = "loss_sum", "weight_sum"
"""Sums that both objectives report: the loss over the targets, in nats, and their weights."""

Sizes = Mapping[str, int]
"""How many numbers each sum of a report holds."""

SumValues = Mapping[str, Sequence[float]]
"""The sums of a report, added up over microbatches and ranks."""

LossFunction = Callable[[Any], tuple[torch.Tensor, Report]]
"""The model's output → (what is differentiated, the report)."""


@dataclass(frozen=True, slots=True)
class LossScales:
    """What a microbatch's summed losses are multiplied by for the backward pass."""

    target: float | torch.Tensor = 1.0
    """For a sum over targets; a tensor on the device if its value is not known on the host."""
    sample: float = 1.0
    """For a sum over samples."""


class Objective(Protocol):
    """One training objective; it keeps no state.

    Its name, and the data.packing values that feed it, are its traits in `config/model_kinds.py`.
    """

    def model_inputs(self, microbatch: Any, device: torch.device) -> tuple[Any, ...]:
        """What the model is called with, on the device."""

    def loss_function(
        self,
        microbatch: Any,
        config: RunConfig,
        *,
        device: torch.device,
        scales: LossScales,
        measure: bool,
    ) -> LossFunction:
        """Makes the function from the model's output to the loss and the report.

        Args:
            microbatch: What the model has read.
            config: The run.
            device: Where the output lives.
            scales: What the summed losses are multiplied by.
            measure: Whether the report holds what validation adds, such as correct predictions.
        """

    def report_sizes(self, model: ModelConfig, *, measure: bool) -> Sizes:
        """The sums that a report holds, fp32, in the order in which ranks add them up."""

    def figures(self, sums: SumValues) -> dict[str, float]:
        """The means that are logged; ``loss`` is what is minimized, without a z-loss."""

    def num_tokens(self, sums: SumValues) -> int:
        """The number of tokens trained on, for tokens per second."""


def mean(sums: SumValues, total: str, count: str) -> float:
    """One sum divided by another, or by 1 where that is less."""
    return sums[total][0] / max(1.0, sums[count][0])
