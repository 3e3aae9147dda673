"""Partitions one parameter at a time with ZeRO 3, while the model is being built."""

from collections.abc import Callable
from typing import Any

import torch
from deepspeed.runtime.zero.partition_parameters import Init


def partitioner(settings: dict[str, Any], *, topology: Any) -> Callable[[torch.nn.Parameter], None]:
    """Makes the function that keeps this rank's part of a new parameter and frees the rest.

    Args:
        settings: The config that DeepSpeed's engine is created with.
        topology: The ``mpu`` that DeepSpeed's engine is created with.
    """
    init = Init(
        data_parallel_group=topology.get_data_parallel_group(),
        config_dict_or_path=settings,
        mpu=topology,
    )

    def partition(parameter: Any) -> None:
        # DeepSpeed's public conversion also broadcasts the values, which do not exist yet.
        init._convert_to_deepspeed_param(parameter)
        parameter.partition()

    return partition
