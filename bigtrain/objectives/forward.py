"""The forward step of an objective: microbatch in, model output and loss function out."""

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
    before: Callable[[int, int], None] | None = None,
    measure: bool = False,
) -> ForwardStep:
    """Makes the function that the schedule calls for each microbatch on each stage.

    Args:
        objective: Decides what the model reads and what is minimized.
        config: The run.
        device: Where the model lives.
        scales: What a microbatch's summed losses are multiplied by for the backward pass.
        before: Called before each forward pass with the numbers of its microbatch and its chunk.
        measure: Whether the report holds what validation adds.
    """

    def forward_step(microbatches: Any, stage: torch.nn.Module) -> Any:
        number, microbatch = next(microbatches)
        if before is not None:
            before(number, stage.vp_stage or 0)  # type: ignore[arg-type]
        output = stage(*objective.model_inputs(microbatch, device))
        return output, objective.loss_function(
            microbatch, config, device=device, scales=scales, measure=measure
        )

    return forward_step
