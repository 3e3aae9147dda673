"""The table of a checkpoint's tensors: the file and position of each box. No torch.

Each rank writes the table of its own boxes (``rank-00000.json``) beside them. Then one
rank merges these tables into ``tensors.json`` and removes them.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from bigtrain.checkpoint.schema import SCHEMA, TENSORS_FILE, CheckpointError, read_json, write_json
from bigtrain.checkpoint.storage_folder import Folder

_RANK_TABLE = re.compile(r"^rank-(\d+)\.json$")


class SavedBox(NamedTuple):
    """A box of a global tensor: its offset and shape, where its bytes lie, and their checksum.

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


Entry = tuple[str, tuple[int, ...], SavedBox]
"""Key and global shape of a tensor, and one box of it."""


def box_slices(offset: Iterable[int], shape: Iterable[int]) -> tuple[slice, ...]:
    """The slices that cut a box out of a tensor."""
    return tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))


def boxes_file(rank: int) -> str:
    """The name of the file of a rank's boxes."""
    return f"rank-{rank:05d}.bin"


def rank_table(rank: int) -> str:
    """The name of the table of a rank's boxes."""
    return f"rank-{rank:05d}.json"


def write_rank_table(folder: Folder, entries: Iterable[Entry], *, rank: int) -> None:
    """Writes the table of a rank's boxes."""
    boxes = [[key, shape, box._asdict()] for key, shape, box in entries]
    write_json(folder, rank_table(rank), {"schema": SCHEMA, "boxes": boxes})


def read_rank_table(folder: Folder, rank: int) -> list[Entry]:
    """Reads the table of a rank's boxes.

    Raises:
        CheckpointError: It cannot be read.
    """
    entries = read_json(folder, rank_table(rank))["boxes"]
    return [(key, tuple(shape), _saved_box(box)) for key, shape, box in entries]


def ranks_with_tables(folder: Folder) -> list[int]:
    """The ranks whose table exists; a rank writes it last."""
    return sorted(int(match[1]) for name in folder.names() if (match := _RANK_TABLE.match(name)))


def write_table(folder: Folder, tables: Iterable[list[Entry]]) -> None:
    """Merges the ranks' tables into one and writes it.

    Args:
        folder: The checkpoint.
        tables: The table of each rank.

    Raises:
        CheckpointError: A part of a tensor is missing, or was written twice.
    """
    tensors: dict[str, Any] = {}
    for key, shape, box in (entry for table in tables for entry in table):
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


def read_table(folder: Folder) -> dict[str, SavedTensor]:
    """Reads the table of all tensors, by key.

    Raises:
        CheckpointError: It cannot be read.
    """
    try:
        return {
            key: SavedTensor(key, tuple(each["shape"]), tuple(map(_saved_box, each["boxes"])))
            for key, each in read_json(folder, TENSORS_FILE)["tensors"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{folder}/{TENSORS_FILE} is not a table of tensors ({error}); use another checkpoint"
        ) from None


def _saved_box(box: dict[str, Any]) -> SavedBox:
    return SavedBox(
        tuple(box["offset"]),
        tuple(box["shape"]),
        *(box[name] for name in ("file", "start", "bytes", "crc32")),
    )
