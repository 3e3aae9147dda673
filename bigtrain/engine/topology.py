"""The process groups as DeepSpeed's ``mpu`` wants to see them."""

from typing import Any

import torch.distributed as dist

from bigtrain.config.layout import Layout
from bigtrain.parallel import groups


class Topology:
    """Answers DeepSpeed's questions about the grid.

    With ``zero_stage`` 0 each rank is its own data-parallel group: DeepSpeed then keeps the whole
    optimizer state on it, and leaves the reduction of gradients to the engine.
    """

    def __init__(self, layout: Layout, *, zero_stage: int) -> None:
        self._layout = layout
        self._data_group: Any = groups.replica_group()
        if zero_stage == 0:
            self._data_group = groups.group_of_this_rank_alone()

    def get_model_parallel_rank(self) -> int:
        """The *tensor* rank: DeepSpeed counts replicated parameters on rank 0 of this only."""
        return groups.tensor_parallel_rank()

    get_tensor_model_parallel_rank = get_model_parallel_rank

    def get_model_parallel_world_size(self) -> int:
        """Ranks that hold one copy of the model."""
        return self._layout.tensor * self._layout.pipeline

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        """The ranks over which a global norm is summed."""
        return groups.model_parallel_group()

    def get_tensor_model_parallel_world_size(self) -> int:
        """Ranks that share each layer."""
        return self._layout.tensor

    def get_tensor_model_parallel_group(self) -> dist.ProcessGroup:
        """The ranks that share each layer."""
        return groups.tensor_parallel_group()

    def get_tensor_model_parallel_src_rank(self) -> int:
        """The first of the ranks that share each layer."""
        return dist.get_process_group_ranks(groups.tensor_parallel_group())[0]

    def get_data_parallel_rank(self) -> int:
        """Which partition of the optimizer state this rank keeps."""
        return dist.get_rank(self._data_group)

    def get_data_parallel_world_size(self) -> int:
        """Partitions of the optimizer state."""
        return dist.get_world_size(self._data_group)

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        """The ranks over which the optimizer state is partitioned."""
        return self._data_group

    def get_data_parallel_group_ranks(self) -> list[int]:
        """Their global ranks."""
        return dist.get_process_group_ranks(self._data_group)
