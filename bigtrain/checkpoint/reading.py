"""Reads tensors and boxes from a checkpoint into numpy arrays, and checks them. No torch."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
from isal.isal_zlib import crc32

from bigtrain.checkpoint.object_store import FileToRead
from bigtrain.checkpoint.schema import CheckpointError, unreadable
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.checkpoint.tensor_table import SavedBox, SavedTensor, box_slices, read_table


class CheckpointReader:
    """Reads the tensors of one checkpoint."""

    def __init__(self, folder: Folder) -> None:
        """Reads nothing yet: the table is read at its first use."""
        self.folder = folder

    @cached_property
    def tensors(self) -> dict[str, SavedTensor]:
        """The table of all tensors, by key.

        Raises:
            CheckpointError: It cannot be read.
        """
        return read_table(self.folder)

    def names(self, kind: str) -> list[str]:
        """Global names of the tensors of one kind (``weight``, ``first_moment``, …)."""
        prefix = f"{kind}/"
        return [key.removeprefix(prefix) for key in self.tensors if key.startswith(prefix)]

    def count(self, kind: str) -> int:
        """Elements of all tensors of one kind."""
        return sum(self.tensors[f"{kind}/{name}"].numel for name in self.names(kind))

    def shape(self, kind: str, name: str) -> tuple[int, ...]:
        """The shape of one global tensor.

        Raises:
            CheckpointError: It is missing.
        """
        return self._tensor(f"{kind}/{name}").shape

    def read_tensor(self, kind: str, name: str) -> np.ndarray:
        """Assembles one global tensor in memory, fp32.

        Raises:
            CheckpointError: It is missing or incomplete, or a box fails its checksum.
        """
        key = f"{kind}/{name}"
        tensor = self._tensor(key)
        values = np.empty(tensor.shape, dtype="<f4")
        if sum(math.prod(box.shape) for box in tensor.boxes) != tensor.numel:
            raise CheckpointError(
                f"{self.folder}: the tensor {key} is incomplete; use another checkpoint"
            )
        for _, box, part in self.read((key, box) for box in tensor.boxes):
            values[box_slices(box.offset, box.shape)] = part
        return values

    def _tensor(self, key: str) -> SavedTensor:
        tensor = self.tensors.get(key)
        if tensor is None:
            raise CheckpointError(
                f"{self.folder}: has no tensor {key}; use another checkpoint, or its own config"
            )
        return tensor

    def read(
        self, wanted: Iterable[tuple[str, SavedBox]]
    ) -> Iterator[tuple[str, SavedBox, np.ndarray]]:
        """Reads boxes of this checkpoint with ``read_boxes``."""
        return read_boxes(self.folder, wanted)


def read_boxes(
    folder: Folder, wanted: Iterable[tuple[str, SavedBox]]
) -> Iterator[tuple[str, SavedBox, np.ndarray]]:
    """Reads boxes, file by file, in the order of their bytes.

    Args:
        folder: Holds the files.
        wanted: Key and box of each box to read.

    Yields:
        Key, box and values of each; the next iteration overwrites the values.

    Raises:
        CheckpointError: A box cannot be read, or fails its checksum.
    """
    memory = np.empty(0, dtype=np.uint8)
    for file, boxes in _by_file(folder, wanted):
        for key, box in boxes:
            if len(memory) < box.bytes:
                memory = np.empty(box.bytes, dtype=np.uint8)
            data = memory[: box.bytes]
            _read_box(folder, file, key, box, data.data)
            yield key, box, data.view("<f4").reshape(box.shape)


def _read_box(
    folder: Folder, file: FileToRead, key: str, box: SavedBox, buffer: memoryview
) -> None:
    path = f"{folder}/{box.file}"
    try:
        count = file.read_into(box.start, buffer)
    except OSError as error:
        raise unreadable(path, error) from None
    if count != box.bytes or crc32(buffer) != box.crc32:
        raise CheckpointError(
            f"{path}: the bytes of {key} at {box.start} fail their checksum; use another checkpoint"
        )


def _by_file(
    folder: Folder, wanted: Iterable[tuple[str, SavedBox]]
) -> Iterator[tuple[FileToRead, list[tuple[str, SavedBox]]]]:
    files: dict[str, list[tuple[str, SavedBox]]] = defaultdict(list)
    for key, box in wanted:
        files[box.file].append((key, box))
    for name, boxes in files.items():
        boxes.sort(key=lambda each: each[1].start)
        try:
            opened = folder.opened(name)
        except OSError as error:
            raise unreadable(f"{folder}/{name}", error) from None
        with opened as file:
            yield file, boxes
