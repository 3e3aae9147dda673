"""Creates and returns megatron-core's process groups, and seeds its random generators."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from bigtrain.config.layout import Layout, RankCoordinates
from bigtrain.environment import Ranks
from bigtrain.parallel import cpu
from bigtrain.parallel.connect import connect_ranks
from bigtrain.parallel.device import (
    runs_on_cpu,
    seed_default_generators,
)

Result = TypeVar("Result")

COLLECTIVE_TIMEOUT = timedelta(minutes=10)


@contextmanager
def process_groups(
    ranks: Ranks,
    layout: Layout,
    device: torch.device,
    *,
    after_connect: Callable[[], None] = lambda: None,
) -> Iterator[RankCoordinates]:
    """Creates the process groups of ``layout``, and destroys them at the end.

    Args:
        ranks: The rank of this process.
        layout: The sizes of the grid.
        device: The device of this rank.
        after_connect: Called when all ranks can communicate, before the groups of ``layout`` are
            created. Ranks with different layouts would block while creating them.

    Yields:
        This rank's coordinates in the grid.

    Raises:
        RendezvousError: The ranks cannot connect to each other.
    """
    if runs_on_cpu(device):
        cpu.install()
    connect_ranks(ranks, device, timeout=COLLECTIVE_TIMEOUT)
    after_connect()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        context_parallel_size=layout.context,
        expert_model_parallel_size=layout.expert,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.megatron_virtual_pipeline,
        order="tp-cp-ep-dp-pp",
        create_gloo_process_groups=False,
    )
    coordinates = layout.coordinates(ranks.rank)
    assert coordinates == _coordinates_of_megatron()
    reseed(0, step=0, microbatch=0, coordinates=coordinates, device=device)
    yield coordinates
    # Groups are not destroyed after an error: this could wait for ranks that have ended, and the
    # error must be reported immediately.
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def _coordinates_of_megatron() -> RankCoordinates:
    return RankCoordinates(
        tensor=parallel_state.get_tensor_model_parallel_rank(),
        context=parallel_state.get_context_parallel_rank(),
        expert=parallel_state.get_expert_model_parallel_rank(),
        data=parallel_state.get_data_parallel_rank(),
        pipeline=parallel_state.get_pipeline_model_parallel_rank(),
        replica=parallel_state.get_data_parallel_rank(with_context_parallel=True),
    )


def reseed(
    seed: int,
    *,
    step: int,
    microbatch: int,
    chunk: int = 0,
    coordinates: RankCoordinates,
    device: torch.device,
) -> None:
    """Makes dropout a function of the arguments, so that checkpoints need no generator state.

    Replica ranks compute different tokens, so their seeds differ. Tensor ranks seed the default
    generator equally, because they drop the same residual values; they seed megatron-core's
    model-parallel generator differently, because each drops values of its own heads.
    """
    text = f"{seed}/{step}/{microbatch}/{coordinates.replica}/{coordinates.pipeline}"
    if chunk:
        text += f"/{chunk}"
    # megatron-core adds small offsets to the seed; with 62 bits the sums fit in an int64.
    mixed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2
    seed_default_generators(mixed, device)
    model_parallel_cuda_manual_seed(mixed)


def is_first_stage(chunk: int | None = None) -> bool:
    """Whether this rank's chunk ``chunk`` (any chunk if None) holds the embedding."""
    return bool(
        parallel_state.is_pipeline_first_stage(ignore_virtual=chunk is None, vp_stage=chunk)
    )


def is_last_stage(chunk: int | None = None) -> bool:
    """Whether this rank's chunk ``chunk`` (any chunk if None) holds the output layer."""
    return bool(parallel_state.is_pipeline_last_stage(ignore_virtual=chunk is None, vp_stage=chunk))


def batch_group() -> dist.ProcessGroup:
    """The batch ranks: they differ from this rank only in the samples that they read."""
    return parallel_state.get_data_parallel_group()


def replica_group() -> dist.ProcessGroup:
    """The replica ranks: they hold the same shards, and reduce gradients together."""
    return parallel_state.get_data_parallel_group(with_context_parallel=True)


def tensor_parallel_group() -> dist.ProcessGroup:
    """The tensor ranks, over which this rank's layers are split."""
    return parallel_state.get_tensor_model_parallel_group()


def model_parallel_group() -> dist.ProcessGroup:
    """The ranks that together hold one copy of the model."""
    return parallel_state.get_model_parallel_group()


def embedding_group() -> dist.ProcessGroup:
    """This rank and its counterpart at the other end of the pipeline; first and last stage only."""
    return parallel_state.get_embedding_group()


def tensor_parallel_rank() -> int:
    """This rank's number in ``tensor_parallel_group``."""
    return int(parallel_state.get_tensor_model_parallel_rank())


def single_rank_group() -> dist.ProcessGroup:
    """A group of this rank only: the context-parallel group, whose size must be 1."""
    group = parallel_state.get_context_parallel_group()
    assert dist.get_world_size(group) == 1
    return group


def is_true_on_any_rank(value: bool, device: torch.device) -> bool:
    """Whether ``value`` is true on at least one rank; every rank calls it."""
    total = torch.tensor(float(value), device=device)
    dist.all_reduce(total)
    return bool(total.item())


def on_rank_zero(work: Callable[[], Result]) -> Result:
    """Calls ``work`` on rank 0; every rank returns its result or raises its error.

    Nodes may see a shared file system in different states, and if only one rank raised an error,
    the others would wait for it.
    """
    outcome: list[tuple[Any, Exception | None]] = [(None, None)]
    if dist.get_rank() == 0:
        try:
            outcome = [(work(), None)]
        except Exception as error:
            outcome = [(None, error)]
    dist.broadcast_object_list(outcome, src=0)
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]
