"""torch.distributed.checkpoint's reader and writer, with JSON in place of pickle and a checksum
for every box."""

import math
import os
import zlib
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from bigtrain.checkpoint.format import SCHEMA, TENSORS_FILE, CheckpointError, read_json, write_json


@dataclass(frozen=True, slots=True)
class Place:
    """Where a box lies, and the checksum of its bytes (fp32, little-endian, row-major)."""

    file: str
    start: int
    bytes: int
    crc32: int


class BoxWriter(StorageWriter):
    """Writes each rank's boxes into one file, and on the coordinator the table of all boxes."""

    def __init__(self, folder: Path, *, rank: int) -> None:
        self._folder = folder
        self._file = f"rank-{rank:05d}.bin"

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing is kept between saves."""

    def set_up_storage_writer(self, is_coordinator: bool, *_: Any, **__: Any) -> None:
        """The folder stands already."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Takes the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Takes the plans as they are."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes this rank's boxes one after the other and waits until they are on the disk."""
        results, start = [], 0
        with (self._folder / self._file).open("wb") as file:
            for item in plan.items:
                data = _bytes_of(planner.resolve_data(item))
                file.write(data)
                place = Place(self._file, start, len(data), zlib.crc32(data))
                results.append(WriteResult(item.index, len(data), place))
                start += len(data)
            file.flush()
            os.fsync(file.fileno())
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Writes the table of all boxes; only the coordinator comes here."""
        places = {result.index: result.storage_data for each in results for result in each}
        tensors: dict[str, Any] = {}
        for name, tensor in metadata.state_dict_metadata.items():
            assert isinstance(tensor, TensorStorageMetadata)
            boxes = [
                {
                    "offset": list(chunk.offsets),
                    "shape": list(chunk.sizes),
                    **asdict(places[MetadataIndex(name, chunk.offsets)]),
                }
                for chunk in tensor.chunks
            ]
            tensors[name] = {"shape": list(tensor.size), "dtype": "float32", "boxes": boxes}
        write_json(self._folder / TENSORS_FILE, {"schema": SCHEMA, "tensors": tensors})

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Takes any folder."""
        return True

    def storage_meta(self) -> StorageMeta | None:
        """Nothing to add."""
        return None


class BoxReader(StorageReader):
    """Reads boxes, each whole and checked against its crc32, then cut to what is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _tensors(self) -> dict[str, Any]:
        # Read when it is first needed: within torch's call, an error here reaches every rank.
        return dict(read_json(self._folder / TENSORS_FILE)["tensors"])

    @cached_property
    def _places(self) -> dict[MetadataIndex, Place]:
        return {
            MetadataIndex(name, box["offset"]): Place(
                *(box[field] for field in ("file", "start", "bytes", "crc32"))
            )
            for name, tensor in self._tensors.items()
            for box in tensor["boxes"]
        }

    def names(self, kind: str) -> list[str]:
        """Global names of the tensors of one kind (``weight``, ``first_moment``, …)."""
        prefix = f"{kind}/"
        return [name.removeprefix(prefix) for name in self._tensors if name.startswith(prefix)]

    def whole_tensor(self, kind: str, name: str) -> torch.Tensor:
        """Assembles one global tensor in memory, fp32.

        Raises:
            CheckpointError: It is not wholly in the checkpoint, or a box fails its checksum.
        """
        key = f"{kind}/{name}"
        if key not in self._tensors:
            raise CheckpointError(f"{self._folder}: holds no tensor {key}; is it of another model?")
        whole = torch.empty(self._tensors[key]["shape"], dtype=torch.float32)
        boxes = self._tensors[key]["boxes"]
        if sum(math.prod(box["shape"]) for box in boxes) != whole.numel():
            raise CheckpointError(f"{self._folder}: the tensor {key} has holes; use another one")
        for box in boxes:
            index = MetadataIndex(key, box["offset"])
            where = tuple(slice(o, o + s) for o, s in zip(box["offset"], box["shape"], strict=True))
            whole[where] = self._read_box(index, box["shape"])
        return whole

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing is kept between loads."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """The table of all boxes, as torch.distributed.checkpoint knows it."""
        return Metadata(
            state_dict_metadata={
                name: TensorStorageMetadata(
                    properties=TensorProperties(dtype=torch.float32),
                    size=torch.Size(tensor["shape"]),
                    chunks=[
                        ChunkStorageMetadata(torch.Size(box["offset"]), torch.Size(box["shape"]))
                        for box in tensor["boxes"]
                    ],
                )
                for name, tensor in self._tensors.items()
            },
            storage_data=self._places,
        )

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *_: Any, **__: Any
    ) -> None:
        """The table is read already."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Takes the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Takes the plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads what this rank asked for, each saved box once."""
        wanted = defaultdict(list)
        for item in plan.items:
            wanted[item.storage_index].append(item)
        for index, items in wanted.items():
            shape = self._shape(index)
            box = self._read_box(index, shape)
            for item in items:
                target = planner.resolve_tensor(item)
                part = tuple(
                    slice(o, o + n) for o, n in zip(item.storage_offsets, item.lengths, strict=True)
                )
                target.copy_(box[part])
                planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Takes any folder."""
        return True

    def _shape(self, index: MetadataIndex) -> list[int]:
        offset = list(index.offset or ())
        return next(
            list(box["shape"])
            for box in self._tensors[index.fqn]["boxes"]
            if box["offset"] == offset
        )

    def _read_box(self, index: MetadataIndex, shape: list[int]) -> torch.Tensor:
        place = self._places[index]
        path = self._folder / place.file
        with path.open("rb") as file:
            file.seek(place.start)
            data = file.read(place.bytes)
        if len(data) != place.bytes or zlib.crc32(data) != place.crc32:
            raise CheckpointError(
                f"{path}: the bytes of {index.fqn} at {place.start} fail their checksum; "
                "rename the folder to go on from the checkpoint before it"
            )
        return torch.from_numpy(np.frombuffer(bytearray(data), dtype="<f4").reshape(shape))


def _bytes_of(data: Any) -> memoryview:
    assert isinstance(data, torch.Tensor) and data.dtype == torch.float32
    array = np.ascontiguousarray(data.detach().cpu().numpy(), dtype="<f4")
    return memoryview(array).cast("B")
