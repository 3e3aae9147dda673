"""Calls webdataset to group the members of a tar into samples, and to run a command.

webdataset imports torch, so it is imported only inside these functions.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any


def key_and_suffix(name: str) -> tuple[str, str] | None:
    """Cuts the name of a member at its first dot.

    Returns:
        None if webdataset ignores the member, such as `README` and `._a.txt`.
    """
    from webdataset.tariterators import base_plus_ext

    key, suffix = base_plus_ext(name)
    return None if key is None else (key, suffix.lower())


def group_samples(members: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Joins consecutive members with the same key: yields the key, and contents by suffix."""
    from webdataset.tariterators import group_by_keys

    files = ({"fname": name, "data": content, "__url__": ""} for name, content in members)
    for sample in group_by_keys(files):
        contents = {name: it for name, it in sample.items() if name not in ("__key__", "__url__")}
        yield sample["__key__"], contents


def open_command(url: str) -> AbstractContextManager[Any]:
    """Runs the command of `pipe:COMMAND` and opens its output."""
    from webdataset.gopen import gopen

    output: AbstractContextManager[Any] = gopen(url)
    return output
