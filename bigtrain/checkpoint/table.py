"""The table of a checkpoint's tensors: where each box lies, read and checked. No torch."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from isal.isal_zlib import crc32

from bigtrain.checkpoint.folder import FileToRead, Folder
from bigtrain.checkpoint.format import (
    SCHEMA,
    TENSORS_FILE,
    CheckpointError,
    read_json,
    unreadable,
    write_json,
)


class SavedBox(NamedTuple):
    """A box of a global tensor: its place in it, where its bytes lie, and their checksum.

    The bytes are fp32, little-endian, row-major.
    """

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    start: int
    bytes: int
    crc32: int


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """A global tensor: its key is ``weight/NAME``, ``first_moment/NAME`` or ``second_moment/…``."""

    key: str
    shape: tuple[int, ...]
    boxes: tuple[SavedBox, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class TensorTable:
    """All tensors of one checkpoint."""

    def __init__(self, folder: Folder) -> None:
        """The table is read when it is first asked for."""
        self.folder = folder

    @cached_property
    def tensors(self) -> dict[str, SavedTensor]:
        """By key.

        Raises:
            CheckpointError: The table cannot be read.
        """
        try:
            return {
                key: _saved_tensor(key, each)
                for key, each in read_json(self.folder, TENSORS_FILE)["tensors"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"{self.folder}/{TENSORS_FILE} is no table of tensors ({error}); use another one"
            ) from None

    def names(self, kind: str) -> list[str]:
        """Global names of the tensors of one kind (``weight``, ``first_moment``, …)."""
        prefix = f"{kind}/"
        return [key.removeprefix(prefix) for key in self.tensors if key.startswith(prefix)]

    def count(self, kind: str) -> int:
        """Elements of all tensors of one kind."""
        return sum(self.tensors[f"{kind}/{name}"].numel for name in self.names(kind))

    def whole_tensor(self, kind: str, name: str) -> np.ndarray:
        """Assembles one global tensor in memory, fp32.

        Raises:
            CheckpointError: It is not wholly in the checkpoint, or a box fails its checksum.
        """
        key = f"{kind}/{name}"
        tensor = self.tensors.get(key)
        if tensor is None:
            raise CheckpointError(f"{self.folder}: holds no tensor {key}; is it of another model?")
        whole = np.empty(tensor.shape, dtype="<f4")
        if sum(math.prod(box.shape) for box in tensor.boxes) != tensor.numel:
            raise CheckpointError(f"{self.folder}: the tensor {key} has holes; use another one")
        for _, box, values in self.read((key, box) for box in tensor.boxes):
            whole[box_slices(box.offset, box.shape)] = values
        return whole

    def read(
        self, wanted: Iterable[tuple[str, SavedBox]]
    ) -> Iterator[tuple[str, SavedBox, np.ndarray]]:
        """Reads boxes, in the order in which they lie.

        Args:
            wanted: Key and box of each.

        Yields:
            Key, box and values of each; the values are overwritten when the next is asked for.

        Raises:
            CheckpointError: One cannot be read, or fails its checksum.
        """
        memory = np.empty(0, dtype=np.uint8)
        for file, boxes in self._by_file(wanted):
            for key, box in boxes:
                if len(memory) < box.bytes:
                    memory = np.empty(box.bytes, dtype=np.uint8)
                data = memory[: box.bytes]
                self.read_box(file, key, box, memoryview(data))
                yield key, box, data.view("<f4").reshape(box.shape)

    def read_box(self, file: FileToRead, key: str, box: SavedBox, buffer: memoryview) -> None:
        """Reads one box into memory of its size, and checks it.

        Raises:
            CheckpointError: It cannot be read, or fails its checksum.
        """
        path = f"{self.folder}/{box.file}"
        try:
            count = file.read_into(box.start, buffer)
        except OSError as error:
            raise unreadable(path, error) from None
        if count != box.bytes or crc32(buffer) != box.crc32:
            raise CheckpointError(
                f"{path}: the bytes of {key} at {box.start} fail their checksum; "
                "use another checkpoint"
            )

    def _by_file(
        self, wanted: Iterable[tuple[str, SavedBox]]
    ) -> Iterator[tuple[FileToRead, list[tuple[str, SavedBox]]]]:
        files: dict[str, list[tuple[str, SavedBox]]] = defaultdict(list)
        for key, box in wanted:
            files[box.file].append((key, box))
        for name, boxes in files.items():
            boxes.sort(key=lambda each: each[1].start)
            try:
                opened = self.folder.opened(name)
            except OSError as error:
                raise unreadable(f"{self.folder}/{name}", error) from None
            with opened as file:
                yield file, boxes


def box_slices(offset: Iterable[int], shape: Iterable[int]) -> tuple[slice, ...]:
    """What cuts a box out of a tensor."""
    return tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))


def write_table(
    folder: Folder, parts: Iterable[list[tuple[str, tuple[int, ...], SavedBox]]]
) -> None:
    """Writes the table that the ranks' parts make together.

    Args:
        folder: The checkpoint.
        parts: Of each rank: key, global shape and box of what it has written.

    Raises:
        CheckpointError: A tensor is not wholly there, or twice.
    """
    tensors: dict[str, Any] = {}
    for key, shape, box in (entry for part in parts for entry in part):
        tensor = tensors.setdefault(key, {"shape": list(shape), "dtype": "float32", "boxes": []})
        tensor["boxes"].append(box._asdict())
    for key, tensor in tensors.items():
        saved = sum(math.prod(box["shape"]) for box in tensor["boxes"])
        if len({tuple(box["offset"]) for box in tensor["boxes"]}) < len(tensor["boxes"]):
            raise CheckpointError(f"{folder}: two ranks wrote the same part of {key}")
        if saved != math.prod(tensor["shape"]):
            raise CheckpointError(
                f"{folder}: the ranks wrote {saved} elements of {key}, which has "
                f"{math.prod(tensor['shape'])}"
            )
    write_json(folder, TENSORS_FILE, {"schema": SCHEMA, "tensors": tensors})


def _saved_tensor(key: str, value: dict[str, Any]) -> SavedTensor:
    boxes = tuple(
        SavedBox(
            tuple(box["offset"]),
            tuple(box["shape"]),
            *(box[name] for name in ("file", "start", "bytes", "crc32")),
        )
        for box in value["boxes"]
    )
    return SavedTensor(key, tuple(value["shape"]), boxes)
