"""Sums the gradients of parameters that ranks share, for ZeRO 2 and 3.

For ZeRO 0 and 1 megatron-core does this after the last backward pass. With ZeRO 2 and 3 DeepSpeed
has reduced and partitioned the gradients by then.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from bigtrain.engine.private import GradientFragment
from bigtrain.parallel import groups


def sum_over_tensor_ranks(chunks: Iterable[torch.nn.Module]) -> None:
    """Sums the gradients of norms and biases over tensor ranks, in every backward pass.

    With sequence parallelism each tensor rank computes a part of the sequence (Korthikanti et al.,
    arXiv 2205.05198, section 4.2.2), and megatron-core marks the parameters that it applies to that
    part. The norms of queries and keys are always applied to the rank's own heads only.
    """
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            is_head_norm = "q_layernorm" in name or "k_layernorm" in name
            if is_head_norm or getattr(parameter, "sequence_parallel", False):
                parameter.register_hook(_sum_over_tensor_ranks)


def _sum_over_tensor_ranks(gradient: torch.Tensor) -> torch.Tensor:
    total = gradient.to(torch.float32, copy=True)
    dist.all_reduce(total, group=groups.tensor_parallel_group())
    return total.to(gradient.dtype)


def tied_weight(chunks: Sequence[Any]) -> torch.nn.Parameter | None:
    """This rank's copy of the embedding that the first and the last stage share, or None."""
    if not chunks[0].share_embeddings_and_output_weights:
        return None
    for chunk, holds_copy in (
        (chunks[0], groups.is_first_stage()),
        (chunks[-1], groups.is_last_stage()),
    ):
        if holds_copy:
            return chunk.shared_embedding_or_output_weight()  # type: ignore[no-any-return]
    return None


def sum_tied(weight: Any, fragment: GradientFragment | None, *, shared_ranges: bool) -> None:
    """Adds the gradients of the two copies of a tied embedding, in place, on both stages.

    Args:
        weight: This rank's copy.
        fragment: The range of its gradient that this rank keeps, if any.
        shared_ranges: Whether the ranks of both stages keep the same range; otherwise the complete
            gradient is gathered for the sum.
    """
    if shared_ranges:
        if fragment is not None:
            total = fragment.values.to(weight.device)
            dist.all_reduce(total, group=groups.embedding_group())
            fragment.values.copy_(total)
        return
    total = torch.zeros(weight.numel(), dtype=torch.float32, device=weight.device)
    if fragment is not None:
        own = total[fragment.start :][: fragment.values.numel()]
        own.copy_(fragment.values)
    dist.all_reduce(total, group=groups.replica_group())
    dist.all_reduce(total, group=groups.embedding_group())
    if fragment is not None:
        fragment.values.copy_(own)
