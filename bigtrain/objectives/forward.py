"""The forward step of an objective: from a microbatch to the model's output and loss function."""

from collections.abc import Callable
from typing import Any

import torch

from bigtrain.config import RunConfig
from bigtrain.objectives.objective import LossScales, Objective
from bigtrain.parallel.schedule import ForwardStep


def make_forward_step(
    objective: Objective,
    config: RunConfig,
    *,
    device: torch.device,
    scales: LossScales,
    before_forward: Callable[[int, int], None] | None = None,
    measure: bool = False,
) -> ForwardStep:
    """Makes the function that the schedule calls for each microbatch and chunk.

    Args:
        objective: Defines the model inputs and the loss.
        config: The run's config.
        device: The device of the model.
        scales: Factors of a microbatch's summed losses, for the backward pass.
        before_forward: Called before each forward pass with the numbers of microbatch and chunk.
        measure: Whether the report includes the sums that only validation needs.
    """

    def forward_step(microbatches: Any, chunk: torch.nn.Module) -> Any:
        number, microbatch = next(microbatches)
        if before_forward is not None:
            before_forward(number, chunk.vp_stage or 0)  # type: ignore[arg-type]
        output = chunk(*objective.model_inputs(microbatch, device))
        return output, objective.loss_function(
            microbatch, config, device=device, scales=scales, measure=measure
        )

    return forward_step
