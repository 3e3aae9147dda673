"""Groups tensors into buckets, for a few large operations instead of many small ones."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar


class _Sized(Protocol):
    def numel(self) -> int: ...


Item = TypeVar("Item", bound=_Sized)


def fill_buckets(items: Iterable[Item], *, elements: int) -> Iterator[list[Item]]:
    """Groups tensors, or their shapes, in order.

    Args:
        items: The tensors or shapes.
        elements: The largest size of a bucket; only a bucket of one item may be larger.
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
