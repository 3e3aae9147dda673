"""Tensors in buckets: few large operations in place of many small ones."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar


class _Sized(Protocol):
    def numel(self) -> int: ...


Item = TypeVar("Item", bound=_Sized)


def fill_buckets(items: Iterable[Item], *, elements: int) -> Iterator[list[Item]]:
    """Groups tensors, or their shapes, in order; none is over ``elements`` but for a single item.

    Args:
        items: What is grouped.
        elements: Most elements of a bucket.
    """
    bucket: list[Item] = []
    filled = 0
    for item in items:
        if bucket and filled + item.numel() > elements:
            yield bucket
            bucket, filled = [], 0
        bucket.append(item)
        filled += item.numel()
    if bucket:
        yield bucket
