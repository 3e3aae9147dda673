"""Which boxes a rank writes, their copies in host memory, and the file that they become."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from isal.isal_zlib import crc32

from bigtrain.checkpoint.folder import Folder
from bigtrain.checkpoint.format import (
    FIRST_MOMENT,
    KINDS,
    SCHEMA,
    SECOND_MOMENT,
    TOKENIZER_FILE,
    WEIGHT,
    TrainState,
    commit,
    read_json,
    write_json,
    write_state,
)
from bigtrain.checkpoint.table import SavedBox, write_table
from bigtrain.engine.boxes import StateBox
from bigtrain.engine.engine import Engine
from bigtrain.parallel.device import copy_beside, host_memory

BOX_BYTES = 2**20
MOST_BOXES = 64
"""A box is at most 1 MiB, or a 64th of its global tensor where that is more: another layout then
reads little that it does not need, and the table stays short."""


@dataclass(frozen=True, slots=True)
class Box:
    """A box of a global tensor that this rank writes; ``values`` is a view, fp32."""

    key: str
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    values: torch.Tensor

    @property
    def bytes(self) -> int:
        """Of the values."""
        return self.values.numel() * self.values.element_size()


def boxes_to_write(engine: Engine) -> list[Box]:
    """The boxes that this rank writes: its pieces, but those that another rank writes as well."""
    pieces = [box for box in engine.boxes() if box.is_first_replica]
    return [
        box
        for key, piece, view in tensors_of(pieces)
        for box in _cut(Box(key, piece.global_shape, piece.offset, view.detach()))
    ]


def tensors_of(
    pieces: Sequence[StateBox], kinds: Sequence[str] = KINDS
) -> Iterator[tuple[str, StateBox, torch.Tensor]]:
    """Key, piece and view of each tensor that the pieces are made of."""
    for piece in pieces:
        views = {
            WEIGHT: piece.master,
            FIRST_MOMENT: piece.first_moment,
            SECOND_MOMENT: piece.second_moment,
        }
        for kind in kinds:
            yield f"{kind}/{piece.name}", piece, views[kind]


class HostCopy:
    """Memory for one copy of the boxes, used again at every save."""

    def __init__(self) -> None:
        self._memory: list[torch.Tensor] = []

    def take(self, boxes: Sequence[Box], device: torch.device) -> list[Box]:
        """The same boxes with values of their own, as they are now.

        Args:
            boxes: As many and as large each time.
            device: Where they are.
        """
        shapes = [box.values.shape for box in boxes]
        if [values.shape for values in self._memory] != shapes:
            self._memory = []  # Before there is another: never two copies.
            self._memory = host_memory(shapes, device)
        pairs = list(zip((box.values for box in boxes), self._memory, strict=True))
        copy_beside(pairs, device)
        return [replace(box, values=copy) for box, (_, copy) in zip(boxes, pairs, strict=True)]


def write_boxes(folder: Folder, boxes: Sequence[Box], *, rank: int) -> None:
    """Writes a rank's boxes into its file, one after the other, and the table of them beside it.

    Raises:
        OSError: There is no room, say.
    """
    name, start = _data(rank), 0
    table = []
    with folder.created(name) as file:
        for box in boxes:
            data = memoryview(box.values.cpu().contiguous().numpy()).cast("B")
            file.write(data)
            shape = tuple(box.values.shape)
            saved = SavedBox(box.offset, shape, name, start, len(data), crc32(data))
            table.append([box.key, box.global_shape, saved._asdict()])
            start += len(data)
    write_json(folder, _part(rank), {"schema": SCHEMA, "boxes": table})


def finish_checkpoint(
    folder: Folder, *, parent: Folder, world_size: int, state: TrainState, tokenizer: bytes
) -> Folder:
    """Makes one checkpoint of what all ranks have written; one rank calls it.

    Raises:
        OSError: There is no room, say.
        CheckpointError: The ranks' boxes do not make whole tensors, or their files are not as long
            as they said.
    """
    parts = [read_json(folder, _part(rank))["boxes"] for rank in range(world_size)]
    boxes = [[(key, shape, SavedBox(**box)) for key, shape, box in part] for part in parts]
    write_table(folder, boxes)
    folder.write(TOKENIZER_FILE, tokenizer)
    write_state(folder, state)
    for rank in range(world_size):
        folder.remove_file(_part(rank))
    sizes = {_data(rank): sum(b.bytes for _, _, b in part) for rank, part in enumerate(boxes)}
    return commit(folder, sizes, parent=parent)


def _data(rank: int) -> str:
    return f"rank-{rank:05d}.bin"


def _part(rank: int) -> str:
    return f"rank-{rank:05d}.json"


def _cut(box: Box) -> Iterator[Box]:
    """Cuts a box into smaller ones along its first axis that is longer than 1."""
    limit = max(BOX_BYTES, 4 * math.prod(box.global_shape) // MOST_BOXES)
    axis = next((a for a, n in enumerate(box.values.shape) if n > 1), None)
    if box.bytes <= limit or axis is None:
        yield box
        return
    length = box.values.shape[axis]
    step = max(1, limit * length // box.bytes)
    for first in range(0, length, step):
        values = box.values.narrow(axis, first, min(step, length - first))
        offset = list(box.offset)
        offset[axis] += first
        yield Box(box.key, box.global_shape, tuple(offset), values)
