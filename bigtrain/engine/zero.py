"""What each ZeRO stage means for the engine. Pure; no torch.

Rajbhandari et al., arXiv 1910.02054: stage 1 partitions the optimizer state over the replica ranks,
stage 2 the gradients as well, stage 3 the weights as well. Stage 0 partitions nothing.
"""

from dataclasses import dataclass

from bigtrain.config.sections import ParallelConfig


@dataclass(frozen=True, slots=True)
class ZeroStage:
    """What one value of ``parallel.zero`` means."""

    deepspeed_stage: int
    """The stage that DeepSpeed runs. Stage 0 is DeepSpeed's stage 1 over groups of one rank."""
    partitions_state: bool
    """Whether each replica rank keeps a part of the masters and moments; else each keeps all."""
    reduces_each_backward: bool
    """Whether DeepSpeed reduces gradients after every backward pass; else once a step."""
    partitions_weights: bool
    """Whether a rank keeps a part of each weight, and gathers the weights of a layer to use it."""


def zero_stage(parallel: ParallelConfig) -> ZeroStage:
    """Returns what the value of ``parallel.zero`` means."""
    zero = parallel.zero
    return ZeroStage(
        deepspeed_stage=max(1, zero),
        partitions_state=zero >= 1,
        reduces_each_backward=zero >= 2,
        partitions_weights=zero == 3,
    )
