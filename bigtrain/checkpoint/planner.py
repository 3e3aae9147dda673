"""Tells torch.distributed.checkpoint which boxes a rank writes and reads: views, never copies."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from bigtrain.checkpoint.format import FIRST_MOMENT, SECOND_MOMENT, WEIGHT, CheckpointError
from bigtrain.engine.pieces import Piece

_Key = tuple[str, tuple[int, ...]]


class BoxSavePlanner(DefaultSavePlanner):
    """Saves the boxes of this rank's pieces, but those that another rank also holds and writes."""

    def __init__(self, pieces: Sequence[Piece], *, writes_data_replicas: bool) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._pieces = [
            piece for piece in pieces if piece.is_first_replica and writes_data_replicas
        ]
        self._views: dict[_Key, torch.Tensor] = {}

    def set_up_planner(
        self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False
    ) -> None:
        """The pieces stand in for a state dict."""
        self.state_dict, self.is_coordinator = {}, is_coordinator

    def create_local_plan(self) -> SavePlan:
        """One item for each box."""
        items = []
        for name, piece, view in _tensors(self._pieces):
            self._views[name, piece.offset] = view
            data = TensorWriteData(
                chunk=ChunkStorageMetadata(torch.Size(piece.offset), view.shape),
                properties=TensorProperties(dtype=view.dtype),
                size=torch.Size(piece.global_shape),
            )
            index = MetadataIndex(name, piece.offset)
            items.append(WriteItem(index=index, type=WriteItemType.SHARD, tensor_data=data))
        self.plan = SavePlan(items)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor:
        """The view that the item stands for."""
        assert write_item.index.offset is not None
        return self._views[write_item.index.fqn, tuple(write_item.index.offset)].detach()


class BoxLoadPlanner(DefaultLoadPlanner):
    """Reads into this rank's pieces whatever boxes the saved layout cut."""

    def __init__(self, pieces: Sequence[Piece], *, kinds: Sequence[str]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._pieces, self._kinds = pieces, kinds
        self._views: dict[_Key, torch.Tensor] = {}

    def set_up_planner(
        self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """The pieces stand in for a state dict."""
        self.state_dict, self.metadata, self.is_coordinator = {}, metadata, is_coordinator

    def create_local_plan(self) -> LoadPlan:
        """Finds the saved boxes that overlap each of ours.

        Raises:
            CheckpointError: A tensor is missing, has another shape, or is not wholly there.
        """
        assert self.metadata is not None
        boxes: dict[str, list[ChunkStorageMetadata]] = defaultdict(list)
        for name, piece, view in _tensors(self._pieces, self._kinds):
            saved = self.metadata.state_dict_metadata.get(name)
            if not isinstance(saved, TensorStorageMetadata) or saved.size != piece.global_shape:
                found = "is missing" if saved is None else f"has shape {tuple(saved.size)}"
                raise CheckpointError(
                    f"the checkpoint's tensor {name} {found}, the model's is {piece.global_shape}; "
                    "it is of another model"
                )
            self._views[name, piece.offset] = view
            boxes[name].append(ChunkStorageMetadata(torch.Size(piece.offset), view.shape))
        items: list[ReadItem] = []
        for name, chunks in boxes.items():
            reads = create_read_items_for_chunk_list(
                name, self.metadata.state_dict_metadata[name], chunks
            )
            if sum(math.prod(r.lengths) for r in reads) != sum(math.prod(c.sizes) for c in chunks):
                raise CheckpointError(f"the checkpoint's tensor {name} has holes; use another one")
            items += reads
        return LoadPlan(items)

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        """The part of our view that the item fills."""
        assert read_item.dest_index.offset is not None
        view = self._views[read_item.dest_index.fqn, tuple(read_item.dest_index.offset)]
        return view[
            tuple(
                slice(o, o + n)
                for o, n in zip(read_item.dest_offsets, read_item.lengths, strict=True)
            )
        ]

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        """The view was written in place."""


def _tensors(
    pieces: Sequence[Piece], kinds: Sequence[str] = (WEIGHT, FIRST_MOMENT, SECOND_MOMENT)
) -> Iterator[tuple[str, Piece, torch.Tensor]]:
    for piece in pieces:
        for kind in kinds:
            view = {
                WEIGHT: piece.master,
                FIRST_MOMENT: piece.first_moment,
                SECOND_MOMENT: piece.second_moment,
            }[kind]
            yield f"{kind}/{piece.name}", piece, view
