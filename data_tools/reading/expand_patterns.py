"""Expands webdataset's patterns for several files: braces and `::`."""

from collections.abc import Sequence
from pathlib import Path

from data_tools.errors import InputError
from data_tools.reading.file_formats import format_by_name

_BETWEEN_URLS = "::"


def expand_pattern(pattern: str) -> list[str]:
    """Expands `shards-{000..099}.tar` to a hundred names, and `a.tar::b.tar` to two.

    Raises:
        InputError: The braces are not balanced.
    """
    parts = pattern.split(_BETWEEN_URLS)
    # fsspec uses `::` too, to join file systems, as in `simplecache::s3://…`.
    if len(parts) == 1 or not all(map(_is_tar, parts)):
        parts = [pattern]
    return [name for part in parts for name in _expand_braces(part)]


def expand_patterns(patterns: Sequence[str]) -> list[str]:
    """Expands every pattern."""
    return [name for pattern in patterns for name in expand_pattern(pattern)]


def _is_tar(name: str) -> bool:
    known = format_by_name(name.rstrip("'\" -"))
    return known is not None and known.kind == "tar"


def _expand_braces(pattern: str) -> list[str]:
    if "{" not in pattern or Path(pattern).exists():
        return [pattern]
    from braceexpand import braceexpand

    try:
        return list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise InputError(f"{pattern}: {error}; write it as shards-{{000..099}}.tar") from error
