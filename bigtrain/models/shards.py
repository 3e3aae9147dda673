"""Which slice of which global tensor each local parameter is, in megatron-core's global names."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

from bigtrain.parallel.groups import replica_group


@dataclass(frozen=True, slots=True)
class Shard:
    """A box of a global tensor that lies at ``start`` in a local parameter's flat memory."""

    name: str
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    start: int
    is_first_replica: bool
    """Of equal copies on tensor and pipeline ranks, the one that is written to disk."""


def shards_of(module: Any) -> dict[str, list[Shard]]:
    """Maps every parameter of a chunk, by its name there, to its shards in the order of its memory.

    Raises:
        AssertionError: A parameter has no global name, or its shards do not cover it.
    """
    # Matched by identity, so that the meta device, whose tensors have no memory, will do.
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    shards: dict[str, list[Shard]] = {}
    state = module.sharded_state_dict(
        metadata={"non_homogeneous_layers": True, "dp_cp_group": replica_group()}
    )
    for owner, pieces in _pieces(state):
        name = names.get(id(owner))
        if name is None:
            continue
        start = 0
        for piece in pieces:
            shards.setdefault(name, []).append(_shard(piece, start))
            start += torch.Size(piece.local_shape).numel()
        assert start == owner.numel()
    nameless = [name for name in names.values() if name not in shards]
    assert not nameless, f"parameters without a global name: {nameless}"
    return shards


def _pieces(state: dict[str, Any]) -> Iterator[tuple[torch.Tensor, list[ShardedTensor]]]:
    for value in state.values():
        match value:
            case dict():
                yield from _pieces(value)
            case ShardedTensor():
                yield value.data, [value]
            case ShardedTensorFactory():
                built = value.build()
                pieces = built.values() if isinstance(built, dict) else built
                yield value.data, list(pieces)


def _shard(piece: ShardedTensor, start: int) -> Shard:
    assert piece.prepend_axis_num == 0, "layers carry their number in the name"
    replica = piece.replica_id if isinstance(piece.replica_id, tuple) else (piece.replica_id,)
    return Shard(
        name=piece.key,
        global_shape=tuple(piece.global_shape),
        offset=tuple(piece.global_offset),
        shape=tuple(piece.local_shape),
        start=start,
        # The last index counts data ranks, which partition the state and do not repeat it.
        is_first_replica=not any(replica[:2]),
    )
