"""megatron-core's pipeline schedules: forward and backward over the microbatches of one step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func

Report = dict[str, torch.Tensor]
"""Numbers that a loss function returns for one microbatch, besides the loss."""

ForwardStep = Callable[[Any, torch.nn.Module], tuple[torch.Tensor, Callable[..., Any]]]
"""``(numbered microbatches, chunk) → (output, loss function of that output)``. It takes the next
``(number, microbatch)`` from the iterator and runs the chunk on this microbatch."""


def run_microbatches(
    forward_step: ForwardStep,
    microbatches: Sequence[Any],
    *,
    chunks: Sequence[torch.nn.Module],
    sequence_length: int,
    micro_batch_size: int,
    forward_only: bool = False,
) -> list[Report]:
    """Runs the microbatches through the pipeline; with several stages in 1F1B order.

    Args:
        forward_step: Called once for each microbatch and chunk.
        microbatches: This rank's share of the batch; the same number on every rank.
        chunks: This rank's chunks of the model.
        sequence_length: Tokens in a sample.
        micro_batch_size: Samples in a microbatch.
        forward_only: Whether to skip the backward passes.

    Returns:
        The loss function's report of each microbatch; empty except on the last stage.
    """
    # Each chunk needs an iterator of its own: chunks process a microbatch at different times.
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
