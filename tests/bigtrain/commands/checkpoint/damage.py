"""Functions that change a checkpoint's files, and that commit it again."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bigtrain.checkpoint.commit import commit
from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.schema import COMMIT_FILE, write_json
from bigtrain.checkpoint.storage_folder import DiskFolder

Tensors = dict[str, np.ndarray]


def flip_bit(file: Path, position: int, bit: int = 0) -> None:
    """Flips one bit of a file; a second call restores it."""
    with file.open("r+b") as opened:
        opened.seek(position)
        [byte] = opened.read(1)
        opened.seek(position)
        opened.write(bytes([byte ^ 1 << bit]))


def change_json(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes one JSON file of a checkpoint, and commits the checkpoint again."""
    value = json.loads(file.read_text())
    change(value)
    schema = {"schema": value.pop("schema")}
    write_json(DiskFolder(file.parent), file.name, {**schema, **value})
    commit_again(file.parent)


def commit_again(checkpoint: Path) -> None:
    """Commits the files in a folder as one checkpoint."""
    (checkpoint / COMMIT_FILE).unlink()
    sizes = {file.name: file.stat().st_size for file in checkpoint.glob("*.bin")}
    commit(DiskFolder(checkpoint), sizes, parent=DiskFolder(checkpoint.parent))


def save_in_one_piece(checkpoint: Path, change: Callable[[Tensors], None] = lambda _: None) -> None:
    """Saves a checkpoint's tensors again with one box each in one file, as no layout does.

    Args:
        checkpoint: The checkpoint's folder, whose files are replaced.
        change: Applied to the tensors before they are saved.
    """
    table = CheckpointReader(DiskFolder(checkpoint))
    tensors = {key: table.read_tensor(*key.split("/", 1)) for key in table.tensors}
    change(tensors)
    for file in checkpoint.glob("rank-*.bin"):
        file.unlink()
    described, content = {}, b""
    for key, values in tensors.items():
        box = {
            "offset": [0] * values.ndim,
            "shape": list(values.shape),
            "file": "rank-00000.bin",
            "start": len(content),
            "bytes": values.nbytes,
            "crc32": zlib.crc32(values.tobytes()),
        }
        described[key] = {"shape": list(values.shape), "dtype": "float32", "boxes": [box]}
        content += values.tobytes()
    (checkpoint / "rank-00000.bin").write_bytes(content)
    folder = DiskFolder(checkpoint)
    schema = json.loads((checkpoint / "tensors.json").read_text())["schema"]
    write_json(folder, "tensors.json", {"schema": schema, "tensors": described})
    commit_again(checkpoint)
