"""Connects the ranks of a job: torch.distributed's default process group."""

from datetime import timedelta

import torch
import torch.distributed as dist

from bigtrain.environment import Ranks
from bigtrain.parallel.device import bound_device, communication_backend
from bigtrain.parallel.rendezvous import RendezvousError, render_rendezvous_error


def connect_ranks(ranks: Ranks, device: torch.device, *, timeout: timedelta) -> None:
    """Creates the default process group.

    Args:
        ranks: The rank of this process, and the number of all ranks.
        device: The device of this rank.
        timeout: Limit for connecting, and for each collective.

    Raises:
        RendezvousError: The ranks cannot connect to each other.
    """
    # A single process needs no port.
    store = dist.HashStore() if ranks.world_size == 1 else None
    try:
        dist.init_process_group(
            communication_backend(device),
            store=store,
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=timeout,
            device_id=bound_device(device),
        )
    except (RuntimeError, ValueError) as error:
        raise RendezvousError(render_rendezvous_error(str(error))) from error
