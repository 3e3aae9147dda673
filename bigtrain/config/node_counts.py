"""Whether a run can use all ranks of a number of nodes. Pure."""

from bigtrain.config.errors import ConfigError
from bigtrain.config.run import RunConfig
from bigtrain.config.world_sizes import nearest_world_sizes


def fits_nodes(config: RunConfig, nodes: int, *, ranks_per_node: int) -> bool:
    """Whether a run can use all ranks of this many nodes."""
    try:
        config.data_parallel_size(nodes * ranks_per_node)
    except ConfigError:
        return False
    return True


def check_node_count(config: RunConfig, nodes: int, *, ranks_per_node: int) -> None:
    """Checks that a run can use all ranks of this many nodes.

    Raises:
        ConfigError: It cannot; the message names the nearest numbers of nodes that it can use.
    """
    world_size = nodes * ranks_per_node
    try:
        config.data_parallel_size(world_size)
    except ConfigError as error:
        reason = str(error).rpartition("; ")[0]  # Its remedy is about processes.
    else:
        return
    near = nearest_world_sizes(config, world_size, ranks_per_node)
    if near:
        remedy = f"use {' or '.join(f'--nodes {size // ranks_per_node}' for size in near)}"
    else:
        remedy = (
            f"no number of nodes with {ranks_per_node} ranks each fits; change the layout, the "
            "batch size, or ranks_per_node in the cluster profile"
        )
    raise ConfigError(
        f"{nodes} {'node' if nodes == 1 else 'nodes'} × {ranks_per_node} ranks = {world_size} "
        f"ranks: {reason}; {remedy}"
    )
