"""Checks that boxes cover each tensor, and each file, exactly once. No torch."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from bigtrain.checkpoint.tensor_table import SavedBox, SavedTensor

_FLOAT_BYTES = 4


def box_fault(tensor: SavedTensor, box: SavedBox) -> str | None:
    """Returns why a box cannot belong to its tensor; None if it can."""
    numbers = (*tensor.shape, *box.offset, *box.shape, box.start, box.bytes, box.crc32)
    if not all(type(number) is int and number >= 0 for number in numbers):
        return "has a number that is not an integer of at least 0"
    if not len(tensor.shape) == len(box.offset) == len(box.shape):
        return f"does not have as many axes as its tensor of shape {tensor.shape}"
    ends = zip(box.offset, box.shape, tensor.shape, strict=True)
    if any(offset + length > size for offset, length, size in ends):
        return f"exceeds its tensor of shape {tensor.shape}"
    if box.bytes != _FLOAT_BYTES * math.prod(box.shape):
        return f"has {box.bytes} bytes for {math.prod(box.shape)} fp32 values"
    return None


def coverage_faults(tensor: SavedTensor) -> Iterator[str]:
    """Yields the faults of all boxes of a tensor: missing elements, elements saved twice."""
    saved = sum(math.prod(box.shape) for box in tensor.boxes)
    overlaps = _overlapping_pairs(tensor.boxes)
    if overlaps:
        yield f"{tensor.key}: elements are saved twice: {overlaps} pairs of its boxes overlap"
    if saved < tensor.numel or (overlaps and saved == tensor.numel):
        yield f"{tensor.key}: elements are missing: its boxes hold {saved} of {tensor.numel}"


def file_coverage_faults(file: str, size: int, boxes: Sequence[SavedBox]) -> Iterator[str]:
    """Yields the faults of all boxes of a file: bytes of no box, bytes of two boxes.

    Args:
        file: The file's name.
        size: The file's size in bytes.
        boxes: Its boxes, in file order.
    """
    end = 0
    for box in boxes:
        if box.start > end:
            yield f"{file}: bytes {end} to {box.start - 1} belong to no tensor"
        elif box.start < end:
            yield f"{file}: bytes {box.start} to {end - 1} belong to two boxes"
        end = max(end, box.start + box.bytes)
    if end < size:
        yield f"{file}: bytes {end} to {size - 1} belong to no tensor"


def _overlapping_pairs(boxes: Sequence[SavedBox]) -> int:
    """How many pairs of boxes share an element."""
    if len(boxes) < 2:
        return 0
    begins = np.array([box.offset for box in boxes], dtype=np.int64)
    ends = begins + np.array([box.shape for box in boxes], dtype=np.int64)
    count = 0
    for number in range(len(boxes) - 1):
        later = slice(number + 1, None)
        apart = (begins[later] >= ends[number]) | (ends[later] <= begins[number])
        count += int((~apart.any(axis=1)).sum())
    return count
