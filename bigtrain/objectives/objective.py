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
"""Maps the model's output to the loss for the backward pass and the report."""


@dataclass(frozen=True, slots=True)
class LossScales:
    """Factors of a microbatch's summed losses, for the backward pass."""

    target: float | torch.Tensor = 1.0
    """Factor of a sum over targets; a tensor on the device if the host does not have it."""
    sample: float = 1.0
    """Factor of a sum over samples."""


class Objective(Protocol):
    """One training objective; it keeps no state.

    Its name, and the data.packing values that it accepts, are in `config/model_kinds.py`.
    """

    def model_inputs(self, microbatch: Any, device: torch.device) -> tuple[Any, ...]:
        """The arguments of the model, on the device."""

    def loss_function(
        self,
        microbatch: Any,
        config: RunConfig,
        *,
        device: torch.device,
        scales: LossScales,
        measure: bool,
    ) -> LossFunction:
        """Makes the function that maps the model's output to the loss and the report.

        Args:
            microbatch: The microbatch that the model reads.
            config: The run's config.
            device: The device of the output.
            scales: Factors of the summed losses.
            measure: Whether the report includes what only validation needs: correct predictions.
        """

    def report_sizes(self, model: ModelConfig, *, measure: bool) -> Sizes:
        """The sums of a report, in the order in which the all-reduce packs them."""

    def figures(self, sums: SumValues) -> dict[str, float]:
        """The means to log; ``loss`` is the minimized loss without z-loss."""

    def num_tokens(self, sums: SumValues) -> int:
        """The number of tokens trained on, for tokens per second."""


def mean(sums: SumValues, total: str, count: str) -> float:
    """One sum divided by another; a divisor below 1 counts as 1."""
    return sums[total][0] / max(1.0, sums[count][0])
