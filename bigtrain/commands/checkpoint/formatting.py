"""What the commands of checkpoints show alike: sizes, times, layouts, aligned columns."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from bigtrain.config.layout import saved_layout

RANK_FILES = ".bin"
"""How the names of the files end that hold boxes; each rank writes one."""


def render_bytes(count: float) -> str:
    """A number of bytes, as people say it."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB" if size < 1000 else f"{size:,.0f} TB"


def render_time(seconds: float | None) -> str:
    """A time in seconds since 1970, in UTC; nothing where it is not known."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def describe_layout(config: dict[str, Any], names: Sequence[str]) -> dict[str, int]:
    """The layout that saved a checkpoint, as JSON shows it.

    Args:
        config: The config in it.
        names: Its files, of which each rank wrote one.
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
    """A layout in the words of `bigtrain parity`."""
    return " ".join(f"{key}={value}" for key, value in layout.items() if key != "ranks")


def align_columns(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> Iterator[str]:
    """Lines of columns as wide as their widest cell.

    Args:
        rows: Cells; the same number in each.
        right: Columns whose cells end at one place.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
