"""megatron-core's pipeline schedules: forward and backward over the microbatches of one step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func

Report = dict[str, torch.Tensor]
"""What a loss function says of one microbatch, besides the loss."""

ForwardStep = Callable[[Any, torch.nn.Module], tuple[torch.Tensor, Callable[..., Any]]]
"""``(numbered microbatches, stage) → (output, loss function of that output)``; it takes the next
``(number, microbatch)``."""


def run_microbatches(
    forward_step: ForwardStep,
    microbatches: Sequence[Any],
    *,
    chunks: Sequence[torch.nn.Module],
    sequence_length: int,
    micro_batch_size: int,
    forward_only: bool = False,
) -> list[Report]:
    """Runs the microbatches through the pipeline, 1F1B when it has stages.

    Args:
        forward_step: Called once for each microbatch on each stage.
        microbatches: This rank's share of the batch; the same number on every rank.
        chunks: This rank's chunks of the model.
        sequence_length: Tokens in a sample.
        micro_batch_size: Samples in a microbatch.
        forward_only: Whether to leave the backward passes out.

    Returns:
        What the loss function reported for each microbatch; empty but on the last stage.
    """
    # Each chunk reads the microbatches by itself, and in its own time.
    iterators = [iter(enumerate(microbatches)) for _ in chunks]
    reports = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iterators if len(chunks) > 1 else iterators[0],
        model=list(chunks),
        num_microbatches=len(microbatches),
        seq_length=sequence_length,
        micro_batch_size=micro_batch_size,
        forward_only=forward_only,
    )
    return list(reports)
