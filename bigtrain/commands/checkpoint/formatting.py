"""How `bigtrain checkpoint` shows sizes, times, layouts, aligned columns and progress."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import typer

from bigtrain.config.layout import saved_layout
from data_tools.progress import Advance, show_progress

RANK_FILES = ".bin"
"""The suffix of the files that hold boxes; each rank writes one."""


def render_bytes(count: float) -> str:
    """Renders a number of bytes with a unit."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB" if size < 1000 else f"{size:,.0f} TB"


def show_read_progress(what: str, total_bytes: int) -> AbstractContextManager[Advance]:
    """Shows the progress of a long read on standard error; leaves nothing on a terminal."""
    write_line = partial(typer.echo, err=True)
    return show_progress(what, total_bytes, write_line=write_line, transient=True)


def render_time(seconds: float | None) -> str:
    """Renders a time, given in seconds since 1970, in UTC; empty if it is None."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def describe_layout(config: dict[str, Any], names: Sequence[str]) -> dict[str, int]:
    """Returns the layout in which a checkpoint was saved, for JSON output.

    Args:
        config: The config in the checkpoint.
        names: The names of the checkpoint's files.
    """
    ranks = sum(name.endswith(RANK_FILES) for name in names)
    layout = saved_layout(config.get("parallel", {}), world_size=ranks)
    return {
        "ranks": ranks,
        "tensor": layout.tensor,
        "pipeline": layout.pipeline,
        "data": layout.data,
        "zero": layout.zero,
    }


def render_layout(layout: dict[str, int]) -> str:
    """Renders a layout as `bigtrain parity` names it."""
    return " ".join(f"{key}={value}" for key, value in layout.items() if key != "ranks")


def align_columns(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> Iterator[str]:
    """Renders rows as lines; each column is as wide as its widest cell.

    Args:
        rows: Cells, the same number in each row.
        right: Columns that are aligned on the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
