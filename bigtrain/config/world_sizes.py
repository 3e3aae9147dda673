"""The numbers of ranks that a run's config allows.

The launcher refuses other numbers before a job is queued and names the nearest that fit; the
supervisor continues on fewer nodes with the largest that fits.
"""

from bigtrain.config.errors import ConfigError
from bigtrain.config.run import RunConfig


def allowed_world_sizes(config: RunConfig, limit: int) -> tuple[int, ...]:
    """The numbers of ranks up to ``limit`` on which the run gives the same batches, largest first.

    The samples and the loss of a step do not depend on the number of ranks, as long as the data
    ranks divide the batch size, and the batch sizes of a ramp.
    """
    step = config.parallel.model_parallel_size
    largest = min(limit, _largest(config)) // step * step
    return tuple(size for size in range(largest, 0, -step) if _is_allowed(config, size))


def nearest_world_sizes(config: RunConfig, wanted: int, ranks_per_node: int) -> tuple[int, ...]:
    """The allowed numbers of ranks nearest to ``wanted`` that fill whole nodes, smallest first.

    Returns:
        The largest up to ``wanted``, and the smallest above it; ``wanted`` alone if it is allowed
        and fills whole nodes. Empty if the config allows no number that fills whole nodes.
    """
    below = range(wanted // ranks_per_node * ranks_per_node, 0, -ranks_per_node)
    above = range(
        (wanted // ranks_per_node + 1) * ranks_per_node, _largest(config) + 1, ranks_per_node
    )
    found = [next((n for n in sizes if _is_allowed(config, n)), None) for sizes in (below, above)]
    if found[0] == wanted:
        return (wanted,)
    return tuple(size for size in found if size is not None)


def _largest(config: RunConfig) -> int:
    """No allowed number is above this: each data rank needs at least one sample."""
    return config.train.global_batch_size * config.parallel.model_parallel_size


def _is_allowed(config: RunConfig, world_size: int) -> bool:
    try:
        config.data_parallel_size(world_size)
    except ConfigError:
        return False
    return True
