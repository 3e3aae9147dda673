"""Chooses the nodes that get ranks. Pure."""

from typing import NamedTuple

from launcher.supervisor.values import Policy, Resources


class Placement(NamedTuple):
    """The nodes that get ranks, in order of their ranks, and the number of all ranks."""

    nodes: tuple[str, ...]
    world_size: int


def place_nodes(resources: Resources, policy: Policy) -> Placement | None:
    """Chooses the nodes that get ranks, and the number of ranks.

    All ranks of the run are placed on the first nodes; the nodes after them are spares. With fewer
    nodes than that, an elastic run gets the largest allowed number of ranks; the last node may
    then have fewer ranks than the others. With enough nodes the run is at its full size again.

    Returns:
        None if the nodes are not enough.
    """
    per_node = resources.ranks_per_node
    room = len(resources.nodes) * per_node
    world_size = resources.full_world_size
    if world_size > room:
        if not policy.elastic:
            return None
        fitting = [size for size in resources.world_sizes if size <= room]
        if not fitting:
            return None
        world_size = max(fitting)
    return Placement(resources.nodes[: -(-world_size // per_node)], world_size)
