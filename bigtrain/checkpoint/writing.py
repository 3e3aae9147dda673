"""Writes boxes of numpy arrays into a rank's file, and makes one checkpoint of all ranks' files.

No torch: `snapshot` makes numpy arrays of the state of an engine.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from bigtrain.checkpoint.commit import commit
from bigtrain.checkpoint.schema import TOKENIZER_FILE, TrainState, write_state
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.checkpoint.tensor_table import (
    SavedBox,
    boxes_file,
    rank_table,
    read_rank_table,
    write_rank_table,
    write_table,
)

BOX_BYTES = 2**20
MAX_BOXES = 64
"""A box is at most 1 MiB, or a 64th of its global tensor where that is more: another layout then
reads little that it does not need, and the table stays short."""


@dataclass(frozen=True, slots=True)
class Box:
    """A box of a global tensor, to be written."""

    key: str
    """``KIND/NAME``, such as ``weight/embedding.word_embeddings.weight``."""
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    """Where the box begins in the global tensor."""
    values: NDArray[np.float32]


def write_boxes(folder: Folder, boxes: Iterable[Box], *, rank: int) -> None:
    """Writes a rank's boxes into its file, one after the other, and the table of them beside it.

    Raises:
        OSError: The disk is full, for example.
    """
    name, start = boxes_file(rank), 0
    table = []
    with folder.created(name) as file:
        for box in boxes:
            values = np.ascontiguousarray(box.values, dtype="<f4").reshape(box.values.shape)
            data = values.data.cast("B")
            file.write(data)
            saved = SavedBox(box.offset, values.shape, name, start, len(data), crc32(data))
            table.append((box.key, box.global_shape, saved))
            start += len(data)
    write_rank_table(folder, table, rank=rank)


def finish_checkpoint(
    folder: Folder, *, parent: Folder, world_size: int, state: TrainState, tokenizer: bytes
) -> Folder:
    """Makes one checkpoint of what all ranks have written; one rank calls it.

    Args:
        folder: Where the ranks have written.
        parent: The folder of checkpoints.
        world_size: Number of ranks that have written.
        state: The training state.
        tokenizer: The content of the tokenizer's file.

    Returns:
        The checkpoint.

    Raises:
        OSError: The disk is full, for example.
        CheckpointError: The ranks' boxes do not make complete tensors, or a file does not
            have the size that its rank reported.
    """
    tables = [read_rank_table(folder, rank) for rank in range(world_size)]
    write_table(folder, tables)
    folder.write(TOKENIZER_FILE, tokenizer)
    write_state(folder, state)
    for rank in range(world_size):
        folder.remove_file(rank_table(rank))
    sizes = {
        boxes_file(rank): sum(box.bytes for _, _, box in table) for rank, table in enumerate(tables)
    }
    return commit(folder, sizes, parent=parent)


def cut_box(
    shape: tuple[int, ...], *, global_shape: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cuts a box into smaller ones along its first axis that is longer than 1.

    Args:
        shape: The box.
        global_shape: The shape of its global tensor.

    Yields:
        Offset in the box, and shape, of each smaller box.
    """
    limit = max(BOX_BYTES, 4 * math.prod(global_shape) // MAX_BOXES)
    size = 4 * math.prod(shape)
    axis = next((a for a, n in enumerate(shape) if n > 1), None)
    if size <= limit or axis is None:
        yield (0,) * len(shape), shape
        return
    length = shape[axis]
    step = max(1, limit * length // size)
    for first in range(0, length, step):
        before, after = shape[:axis], shape[axis + 1 :]
        offset = (*(0 for _ in before), first, *(0 for _ in after))
        yield offset, (*before, min(step, length - first), *after)
