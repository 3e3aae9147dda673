"""Cross entropy over a vocabulary that is split over tensor ranks and padded at its end.

The logits are the largest tensor of a step. They are read in blocks of rows that fit in the cache,
without an fp32 copy or a softmax of their full size. The backward pass keeps only the logits and
one number for each token.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from bigtrain.parallel.device import runs_on_cpu
from bigtrain.parallel.groups import tensor_parallel_group, tensor_parallel_rank

# Elements converted to fp32 at a time: few enough for a CPU's cache, enough to occupy a GPU.
_CPU_BLOCK, _GPU_BLOCK = 1 << 18, 1 << 26


def token_losses(
    logits: torch.Tensor, targets: torch.Tensor, *, vocab_size: int, z_loss: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The negative log-likelihood of each target, in nats.

    Args:
        logits: This tensor rank's columns, ``[batch, sequence, padded vocabulary / tensor]``, fp32
            or bf16.
        targets: ``[batch, sequence]``.
        vocab_size: Tokens of the tokenizer; later columns are padding and are ignored.
        z_loss: Weight of log²Z, where Z is the softmax's denominator (PaLM, arXiv 2204.02311,
            section 5).

    Returns:
        The losses, ``[batch, sequence]``, fp32, the same on every tensor rank; and z_loss·log²Z,
        of the same shape, which is minimized but not reported, or None if ``z_loss`` is 0.
    """
    losses, log_z = _CrossEntropy.apply(logits, targets, vocab_size)  # type: ignore[no-untyped-call]
    return losses, z_loss * log_z.square() if z_loss else None


@torch.no_grad()
def token_hits(logits: torch.Tensor, targets: torch.Tensor, *, vocab_size: int) -> torch.Tensor:
    """Whether each target is the prediction: the lowest token with the largest logit.

    Args:
        logits: This tensor rank's columns, ``[batch, sequence, padded vocabulary / tensor]``.
        targets: ``[batch, sequence]``.
        vocab_size: Tokens of the tokenizer; later columns are padding and are ignored.

    Returns:
        bool, ``[batch, sequence]``, the same on every tensor rank.
    """
    start, real = _columns(logits, vocab_size)
    if not real:
        largest = torch.full(targets.shape, -torch.inf, device=logits.device)
        predicted = torch.full_like(targets, vocab_size)
    else:
        values, columns = logits[..., :real].max(dim=-1)
        largest, predicted = values.float(), columns + start
    if _is_split():
        local = largest.clone()
        _reduce(largest, dist.ReduceOp.MAX)
        predicted = torch.where(local == largest, predicted, vocab_size)
        _reduce(predicted, dist.ReduceOp.MIN)
    return predicted == targets


class _CrossEntropy(torch.autograd.Function):
    """Maps logits to losses and log Z. The backward pass recomputes the softmax block by block."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, targets: torch.Tensor, vocab_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start, real = _columns(logits, vocab_size)
        rows = logits.reshape(-1, logits.shape[-1])
        columns = (targets - start).reshape(-1, 1)
        is_local = (columns >= 0) & (columns < real)
        columns = columns.clamp(0, logits.shape[-1] - 1)
        target_logit = torch.where(is_local, rows.gather(1, columns).float(), 0.0)
        local_log_z = torch.full_like(target_logit, -torch.inf)
        for block in _blocks(rows, real):
            values = rows[block, :real].float()
            # log Z is the largest logit minus its log-probability.
            local_log_z[block] = values.amax(1, keepdim=True)
            local_log_z[block] -= values.log_softmax(1).amax(1, keepdim=True)
        log_z, target_logit = (
            _combine(local_log_z, target_logit) if _is_split() else (local_log_z, target_logit)
        )
        ctx.save_for_backward(rows, columns, is_local, (local_log_z - log_z).exp())
        ctx.real, ctx.shape = real, logits.shape
        return (log_z - target_logit).view(targets.shape), log_z.view(targets.shape)

    @staticmethod
    def backward(
        ctx: Any, loss_gradient: torch.Tensor, log_z_gradient: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        rows, columns, is_local, share = ctx.saved_tensors
        softmax_gradient = (loss_gradient + log_z_gradient).reshape(-1, 1) * share
        target_gradient = torch.where(is_local, loss_gradient.reshape(-1, 1), 0.0)
        gradient = torch.empty_like(rows)
        gradient[:, ctx.real :] = 0
        for block in _blocks(rows, ctx.real):
            softmax = rows[block, : ctx.real].float().softmax(1)
            softmax.mul_(softmax_gradient[block])
            softmax.scatter_add_(1, columns[block].clamp_max(ctx.real - 1), -target_gradient[block])
            gradient[block, : ctx.real] = softmax
        return gradient.view(ctx.shape), None, None


def _combine(
    local_log_z: torch.Tensor, target_logit: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Combines all ranks' log Z and target logits into those of the complete vocabulary."""
    largest = local_log_z.clone()
    _reduce(largest, dist.ReduceOp.MAX)
    both = torch.stack([(local_log_z - largest).exp(), target_logit])
    _reduce(both, dist.ReduceOp.SUM)
    return both[0].log() + largest, both[1]


def _columns(logits: torch.Tensor, vocab_size: int) -> tuple[int, int]:
    """The token of this rank's first column, and how many of its columns are not padding."""
    start = tensor_parallel_rank() * logits.shape[-1]
    return start, min(max(vocab_size - start, 0), logits.shape[-1])


def _blocks(rows: torch.Tensor, real: int) -> Iterator[slice]:
    if not real:
        return iter(())
    elements = _CPU_BLOCK if runs_on_cpu(rows.device) else _GPU_BLOCK
    size = max(1, elements // rows.shape[1])
    return (slice(first, first + size) for first in range(0, len(rows), size))


def _is_split() -> bool:
    return dist.get_world_size(tensor_parallel_group()) > 1


def _reduce(values: torch.Tensor, operation: Any) -> None:
    dist.all_reduce(values, op=operation, group=tensor_parallel_group())
