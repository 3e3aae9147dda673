"""Loads a checkpoint of any layout into an engine, all ranks together.

torch.distributed.checkpoint finds which saved boxes overlap this rank's. It calls our planner
and our reader, which read directly into the optimizer's memory and never unpickle anything.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.schema import KINDS, WEIGHT, CheckpointError, TrainState, read_state
from bigtrain.checkpoint.snapshot import tensors_of
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.checkpoint.tensor_table import SavedBox, SavedTensor, box_slices
from bigtrain.engine.boxes import StateBox
from bigtrain.engine.engine import Engine
from bigtrain.parallel.groups import on_rank_zero

_Key = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class HeadChange:
    """Which weights of a model and of a checkpoint need not be in the other; names begin so."""

    new: tuple[str, ...] = ()
    """Weights of the model that keep their initial values."""
    left_out: tuple[str, ...] = ()
    """Weights of the checkpoint that are not read."""


def load_checkpoint(
    folder: Folder,
    engine: Engine,
    *,
    weights_only: bool = False,
    heads: HeadChange = HeadChange(),
) -> TrainState:
    """Loads a checkpoint of any layout into the engine; every rank calls it.

    Args:
        folder: A committed checkpoint.
        engine: The engine whose weights and moments are overwritten.
        weights_only: Whether to leave the moments and the count of steps as they are.
        heads: The weights that begin anew, and those that are left out.

    Raises:
        CheckpointError: It does not fit the model, cannot be read, or fails a checksum; raised on
            every rank, even if only one failed. The engine's state is then undefined.
    """
    kinds = (WEIGHT,) if weights_only else KINDS
    state = on_rank_zero(lambda: read_state(folder))
    # The table is read inside torch's call, which raises one rank's error on every rank.
    reader = CheckpointReader(folder)
    with engine.writable_boxes() as boxes:
        planner = _StateLoader(reader, boxes, kinds=kinds, heads=heads)
        try:
            dcp.load({}, storage_reader=_BoxReader(reader), planner=planner)
        except CheckpointException as error:
            raise _first_cause(folder, error) from error
    if not weights_only:
        engine.optimizer_steps = state.optimizer_steps
    return state


class _StateLoader(DefaultLoadPlanner):
    """Plans which saved boxes this rank reads into its own boxes."""

    def __init__(
        self,
        reader: CheckpointReader,
        boxes: Sequence[StateBox],
        *,
        kinds: Sequence[str],
        heads: HeadChange,
    ) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._reader, self._boxes, self._kinds, self._heads = reader, boxes, kinds, heads
        self._views: dict[_Key, torch.Tensor] = {}
        self._items: list[ReadItem] = []

    def set_up_planner(
        self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Ignores the state dict, because the planner has the boxes."""
        self.state_dict, self.metadata, self.is_coordinator = {}, metadata, is_coordinator

    def create_local_plan(self) -> LoadPlan:
        """Finds the saved boxes that overlap each box of this rank.

        Returns:
            A plan with names only, which rank 0 gathers: no other rank needs the reads of this
            one.

        Raises:
            CheckpointError: A tensor is missing, incomplete, or of another shape.
        """
        wanted: dict[str, list[ChunkStorageMetadata]] = defaultdict(list)
        for name, box, view in tensors_of(self._boxes, self._kinds):
            if box.name.startswith(self._heads.new):
                continue
            saved = self._reader.tensors.get(name)
            if saved is None or saved.shape != tuple(box.global_shape):
                found = "is missing" if saved is None else f"has shape {saved.shape}"
                raise CheckpointError(
                    f"the checkpoint's tensor {name} {found}, the model's is {box.global_shape}; "
                    "the checkpoint is of another model"
                )
            self._views[name, box.offset] = view
            wanted[name].append(ChunkStorageMetadata(torch.Size(box.offset), view.shape))
        for name, chunks in wanted.items():
            saved_chunks = _torch_metadata(self._reader.tensors[name])
            reads = create_read_items_for_chunk_list(name, saved_chunks, chunks)
            if sum(math.prod(r.lengths) for r in reads) != sum(math.prod(c.sizes) for c in chunks):
                raise CheckpointError(
                    f"the checkpoint's tensor {name} is incomplete; use another checkpoint"
                )
            self._items += reads
        return LoadPlan([], planner_data=frozenset(wanted))

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """Checks that every saved tensor is read by some rank.

        Raises:
            CheckpointError: No rank reads a tensor.
        """
        asked = frozenset[str]().union(*(plan.planner_data for plan in global_plan))
        for key in self._reader.tensors:
            kind, name = key.split("/", 1)
            is_left_out = name.startswith(self._heads.left_out)
            if key not in asked and kind in self._kinds and not is_left_out:
                raise CheckpointError(
                    f"the checkpoint's tensor {key} is not in the model; the checkpoint is of "
                    "another model"
                )
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """Returns the reads of this rank."""
        return LoadPlan(self._items)

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        """The part of this rank's view that the item fills."""
        assert read_item.dest_index.offset is not None
        view = self._views[read_item.dest_index.fqn, tuple(read_item.dest_index.offset)]
        return view[box_slices(read_item.dest_offsets, read_item.lengths)]

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        """Does nothing: the view was written in place."""


class _BoxReader(StorageReader):
    """Reads complete boxes, checks each against its crc32, and copies the parts asked for."""

    def __init__(self, reader: CheckpointReader) -> None:
        self._reader = reader

    def reset(self, checkpoint_id: Any = None) -> None:
        """Does nothing: no state is kept between loads."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Returns no metadata: the planner reads the table."""
        return Metadata(state_dict_metadata={})

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *_: Any, **__: Any
    ) -> None:
        """Does nothing: the reader has the table."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Leaves the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Leaves the plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads the plan's items; each saved box is read once."""
        wanted: dict[_Key, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            wanted[item.storage_index.fqn, tuple(item.storage_index.offset or ())].append(item)
        boxes = ((key, box) for key, box in self._boxes() if (key, box.offset) in wanted)
        for key, box, values in self._reader.read(boxes):
            saved = torch.from_numpy(values)
            for item in wanted[key, box.offset]:
                target = planner.resolve_tensor(item)
                target.copy_(saved[box_slices(item.storage_offsets, item.lengths)])
                planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Accepts any folder."""
        return True

    def _boxes(self) -> Iterator[tuple[str, SavedBox]]:
        for key, tensor in self._reader.tensors.items():
            for box in tensor.boxes:
                yield key, box


def _torch_metadata(tensor: SavedTensor) -> TensorStorageMetadata:
    return TensorStorageMetadata(
        properties=TensorProperties(dtype=torch.float32),
        size=torch.Size(tensor.shape),
        chunks=[
            ChunkStorageMetadata(torch.Size(box.offset), torch.Size(box.shape))
            for box in tensor.boxes
        ],
    )


def _first_cause(folder: Folder, error: CheckpointException) -> BaseException:
    """The cause to raise: a ``CheckpointError`` only if every rank that failed has one."""
    causes = [(rank, cause) for rank, (cause, _) in sorted(error.failures.items())]
    for _, cause in causes:
        if not isinstance(cause, CheckpointError):  # An interrupt, or out of memory.
            return cause
    rank, cause = causes[0]
    if str(folder) in str(cause):
        return cause
    return CheckpointError(f"{folder}: not loaded: rank {rank}: {cause}")
