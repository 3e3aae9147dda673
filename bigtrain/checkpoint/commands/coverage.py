"""Whether boxes make whole tensors, and whole files, each part of them exactly once. No torch."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from bigtrain.checkpoint.tensor_table import SavedBox, SavedTensor

_FLOAT_BYTES = 4


def box_fault(tensor: SavedTensor, box: SavedBox) -> str | None:
    """Why a box cannot be one of a tensor's; None where it can."""
    numbers = (*tensor.shape, *box.offset, *box.shape, box.start, box.bytes, box.crc32)
    if not all(type(number) is int and number >= 0 for number in numbers):
        return "has a place that is no place"
    if not len(tensor.shape) == len(box.offset) == len(box.shape):
        return f"has another number of axes than the tensor's {tensor.shape}"
    ends = zip(box.offset, box.shape, tensor.shape, strict=True)
    if any(offset + length > size for offset, length, size in ends):
        return f"reaches out of the tensor's {tensor.shape}"
    if box.bytes != _FLOAT_BYTES * math.prod(box.shape):
        return f"has {box.bytes} bytes for {math.prod(box.shape)} fp32 values"
    return None


def cover_faults(tensor: SavedTensor) -> Iterator[str]:
    """What is wrong with the boxes of a tensor together: holes, and elements saved twice."""
    saved = sum(math.prod(box.shape) for box in tensor.boxes)
    overlaps = _overlapping_pairs(tensor.boxes)
    if overlaps:
        yield f"{tensor.key}: elements are there twice: {overlaps} pairs of its boxes overlap"
    if saved < tensor.numel or (overlaps and saved == tensor.numel):
        yield f"{tensor.key}: a hole: its boxes hold {saved} of {tensor.numel} elements"


def file_cover_faults(file: str, size: int, boxes: Sequence[SavedBox]) -> Iterator[str]:
    """What is wrong with the boxes of a file together: bytes of none, and bytes of two.

    Args:
        file: Its name.
        size: Its bytes.
        boxes: In the order in which they lie.
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
