"""The shards of the global tensors that each local parameter holds, by megatron-core's names."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

from bigtrain.parallel.groups import replica_group


@dataclass(frozen=True, slots=True)
class Shard:
    """A tensor rank's part of a global tensor; it starts at element ``start`` of a parameter."""

    name: str
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    start: int
    is_first_replica: bool
    """Whether to count and save it; True on one of the tensor ranks and stages that hold a copy."""


def shards_of(module: Any) -> dict[str, list[Shard]]:
    """Maps each parameter's name in a chunk to its shards, in the order of its memory.

    Raises:
        AssertionError: A parameter has no global name, or its shards do not cover it.
    """
    # Matched by identity, because tensors on the meta device have no memory to compare.
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    shards: dict[str, list[Shard]] = {}
    state = module.sharded_state_dict(
        metadata={"non_homogeneous_layers": True, "dp_cp_group": replica_group()}
    )
    for owner, sharded in _sharded_tensors(state):
        name = names.get(id(owner))
        if name is None:
            continue
        start = 0
        for tensor in sharded:
            shards.setdefault(name, []).append(_shard(tensor, start))
            start += torch.Size(tensor.local_shape).numel()
        assert start == owner.numel()
    unnamed = [name for name in names.values() if name not in shards]
    assert not unnamed, f"parameters without a global name: {unnamed}"
    return shards


def _sharded_tensors(
    state: dict[str, Any],
) -> Iterator[tuple[torch.Tensor, list[ShardedTensor]]]:
    """Yields each parameter with the parts of global tensors that it holds."""
    for value in state.values():
        match value:
            case dict():
                yield from _sharded_tensors(value)
            case ShardedTensor():
                yield value.data, [value]
            case ShardedTensorFactory():
                built = value.build()
                yield value.data, list(built.values() if isinstance(built, dict) else built)


def _shard(tensor: ShardedTensor, start: int) -> Shard:
    assert tensor.prepend_axis_num == 0, "a layer tensor's name must contain the layer's number"
    replica = tensor.replica_id if isinstance(tensor.replica_id, tuple) else (tensor.replica_id,)
    return Shard(
        name=tensor.key,
        global_shape=tuple(tensor.global_shape),
        offset=tuple(tensor.global_offset),
        shape=tuple(tensor.local_shape),
        start=start,
        # The last index, the replica rank, is ignored: with ZeRO the replica ranks partition the
        # state, and with ZeRO 0 the engine selects one of them.
        is_first_replica=not any(replica[:2]),
    )
