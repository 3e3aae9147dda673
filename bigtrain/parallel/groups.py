"""megatron-core's process groups and seeds: made here, and asked for here."""

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
from bigtrain.parallel.device import (
    bound_device,
    communication_backend,
    runs_on_cpu,
    seed_default_generators,
)
from bigtrain.parallel.meeting import MeetingError, render_meeting_error

Answer = TypeVar("Answer")

COLLECTIVE_TIMEOUT = timedelta(minutes=10)


@contextmanager
def process_groups(
    ranks: Ranks,
    layout: Layout,
    device: torch.device,
    *,
    once_joined: Callable[[], None] = lambda: None,
) -> Iterator[RankCoordinates]:
    """Joins the ranks into the groups of ``layout``, and leaves them at the end.

    Args:
        ranks: Where this process stands.
        layout: The grid.
        device: Of this rank.
        once_joined: Called when all ranks can communicate, before the groups of ``layout`` are
            made: ranks with different layouts would wait for each other there.

    Yields:
        This rank's coordinates in the grid.

    Raises:
        MeetingError: The ranks cannot meet.
    """
    if runs_on_cpu(device):
        cpu.install()
    _meet(ranks, device)
    once_joined()
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
    # Not after an error: taking groups apart can wait for ranks that are gone, and what went
    # wrong must be told at once.
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


def _meet(ranks: Ranks, device: torch.device) -> None:
    # One process alone needs no port: it meets itself in memory.
    store = dist.HashStore() if ranks.world_size == 1 else None
    try:
        dist.init_process_group(
            communication_backend(device),
            store=store,
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=COLLECTIVE_TIMEOUT,
            device_id=bound_device(device),
        )
    except (RuntimeError, ValueError) as error:
        raise MeetingError(render_meeting_error(str(error))) from error


def reseed(
    seed: int,
    *,
    step: int,
    microbatch: int,
    chunk: int = 0,
    coordinates: RankCoordinates,
    device: torch.device,
) -> None:
    """Makes dropout a function of the arguments; a checkpoint holds no state of a generator.

    Replica ranks compute different tokens, so each one has its own random numbers. Tensor ranks
    share the default generator (they drop the same residual values) and differ in megatron-core's
    model-parallel one (each drops values of its own heads).
    """
    text = f"{seed}/{step}/{microbatch}/{coordinates.replica}/{coordinates.pipeline}"
    if chunk:
        text += f"/{chunk}"
    # megatron-core adds small offsets; 62 bits leave room for them.
    mixed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2
    seed_default_generators(mixed, device)
    model_parallel_cuda_manual_seed(mixed)


def is_first_stage(chunk: int | None = None) -> bool:
    """Whether this rank's chunk, or its only one, holds the embedding."""
    return bool(
        parallel_state.is_pipeline_first_stage(ignore_virtual=chunk is None, vp_stage=chunk)
    )


def is_last_stage(chunk: int | None = None) -> bool:
    """Whether this rank's chunk, or its only one, holds the output layer and sees the loss."""
    return bool(parallel_state.is_pipeline_last_stage(ignore_virtual=chunk is None, vp_stage=chunk))


def batch_group() -> dist.ProcessGroup:
    """The batch ranks: they read different samples, and are otherwise where this rank is."""
    return parallel_state.get_data_parallel_group()


def replica_group() -> dist.ProcessGroup:
    """The replica ranks: they hold the same shards of the parameters, and reduce gradients."""
    return parallel_state.get_data_parallel_group(with_context_parallel=True)


def tensor_parallel_group() -> dist.ProcessGroup:
    """The ranks that share this rank's layers."""
    return parallel_state.get_tensor_model_parallel_group()


def model_parallel_group() -> dist.ProcessGroup:
    """The ranks that together hold one copy of the model."""
    return parallel_state.get_model_parallel_group()


def embedding_group() -> dist.ProcessGroup:
    """This rank and the one at the other end of the pipeline; for ranks of the two end stages."""
    return parallel_state.get_embedding_group()


def tensor_parallel_rank() -> int:
    """This rank's number among the ranks that share its layers."""
    return int(parallel_state.get_tensor_model_parallel_rank())


def group_of_this_rank_alone() -> dist.ProcessGroup:
    """A group of one: context parallelism, of which we have none, shares with nobody."""
    group = parallel_state.get_context_parallel_group()
    assert dist.get_world_size(group) == 1
    return group


def on_rank_zero(work: Callable[[], Answer]) -> Answer:
    """Does ``work`` on rank 0 and gives every rank its answer, or its error.

    File systems show things at different times to different nodes, and an error on one rank alone
    would leave the others waiting for it.
    """
    outcome: list[tuple[Any, Exception | None]] = [(None, None)]
    if dist.get_rank() == 0:
        try:
            outcome = [(work(), None)]
        except Exception as error:
            outcome = [(None, error)]
    dist.broadcast_object_list(outcome, src=0)
    answer, error = outcome[0]
    if error is not None:
        raise error
    return answer  # type: ignore[no-any-return]
