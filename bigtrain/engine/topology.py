"""The process groups, in the form that DeepSpeed expects of its argument ``mpu``."""

from typing import Any

import torch.distributed as dist

from bigtrain.config.layout import Layout
from bigtrain.parallel import groups


class Topology:
    """Ranks, sizes and groups of the grid, by the names that DeepSpeed calls.

    DeepSpeed's *data parallel* ranks are the replica ranks: it reduces gradients and partitions the
    optimizer state over them. With ZeRO 0 each group has one rank only: DeepSpeed then keeps the
    complete optimizer state on it, and our engine reduces the gradients.
    """

    def __init__(self, layout: Layout, *, partitions_state: bool) -> None:
        self._layout = layout
        self._data_group: Any = (
            groups.replica_group() if partitions_state else groups.single_rank_group()
        )

    def get_model_parallel_rank(self) -> int:
        """The *tensor* rank: DeepSpeed counts replicated parameters on rank 0 only."""
        return groups.tensor_parallel_rank()

    get_tensor_model_parallel_rank = get_model_parallel_rank

    def get_model_parallel_world_size(self) -> int:
        """How many ranks hold one copy of the model."""
        return self._layout.tensor * self._layout.pipeline

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        """The ranks that together hold one copy of the model."""
        return groups.model_parallel_group()

    def get_tensor_model_parallel_world_size(self) -> int:
        """The number of ranks that each layer is split over."""
        return self._layout.tensor

    def get_tensor_model_parallel_group(self) -> dist.ProcessGroup:
        """The ranks that each layer is split over."""
        return groups.tensor_parallel_group()

    def get_tensor_model_parallel_src_rank(self) -> int:
        """The global rank of tensor rank 0."""
        return dist.get_process_group_ranks(groups.tensor_parallel_group())[0]

    def get_data_parallel_rank(self) -> int:
        """Which partition of the optimizer state this rank keeps."""
        return dist.get_rank(self._data_group)

    def get_data_parallel_world_size(self) -> int:
        """How many partitions the optimizer state has."""
        return dist.get_world_size(self._data_group)

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        """The ranks over which the optimizer state is partitioned."""
        return self._data_group

    def get_data_parallel_group_ranks(self) -> list[int]:
        """The global ranks of the data-parallel group."""
        return dist.get_process_group_ranks(self._data_group)
