"""Writes safetensors files of any size with the memory of one tensor.

The library's own writer needs all tensors of a file at once. The format is an 8-byte length, a
JSON header with the type, shape and place of each tensor, and the tensors' bytes
(https://github.com/huggingface/safetensors); the library reads every file back in the verification.
"""

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bigtrain.convert.their_weights import INDEX_FILE, SINGLE_FILE

KINDS: Mapping[torch.dtype, str] = {torch.float32: "F32", torch.bfloat16: "BF16"}
DEFAULT_SHARD_BYTES = 5_000_000_000
_ALIGNMENT = 8
"""Bytes; the tensors begin at a multiple of it."""


def write_shards(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, torch.Tensor]],
    *,
    dtype: torch.dtype,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> list[Path]:
    """Writes tensors into one file, or into several with an index.

    Args:
        folder: The folder for the files.
        shapes: Shape of each tensor, in the order of ``tensors``.
        tensors: Names and values; each is asked for when the one before is written.
        dtype: The type in the files.
        max_shard_bytes: Largest size of a file; a tensor that is larger has a file of its own.

    Returns:
        The files, without the index.
    """
    shards = _split(shapes, itemsize=dtype.itemsize, limit=max_shard_bytes)
    names = [SINGLE_FILE]
    if len(shards) > 1:
        names = [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
        _write_index(folder, shapes, dict(zip(names, shards, strict=True)), dtype)
    values = iter(tensors)
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, {each: shapes[each] for each in shard}, values, dtype)
    return [folder / name for name in names]


def _split(
    shapes: Mapping[str, tuple[int, ...]], *, itemsize: int, limit: int
) -> list[Sequence[str]]:
    shards: list[list[str]] = [[]]
    used = 0
    for name, shape in shapes.items():
        size = itemsize * math.prod(shape)
        if shards[-1] and used + size > limit:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return [*shards]


def _write_file(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    values: Iterable[tuple[str, torch.Tensor]],
    dtype: torch.dtype,
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": KINDS[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for expected, shape in shapes.items():
            name, tensor = next(iter(values))
            assert (name, tuple(tensor.shape)) == (expected, shape)
            file.write(tensor.to(dtype).contiguous().view(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def _write_index(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    files: Mapping[str, Sequence[str]],
    dtype: torch.dtype,
) -> None:
    parameters = sum(math.prod(shape) for shape in shapes.values())
    index = {
        "metadata": {
            "total_parameters": parameters,
            "total_size": parameters * dtype.itemsize,
        },
        "weight_map": {name: file for file, names in files.items() for name in names},
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / INDEX_FILE).write_text(text, "utf-8")
