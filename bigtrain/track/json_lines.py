"""Files of one JSON value per line. A killed process may leave an incomplete line at the end."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO


def finite_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values with None instead of NaN and infinity, which JSON does not have."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def open_to_append(path: Path) -> TextIO:
    """Opens a file to append lines, each written at once; ends an incomplete last line first."""
    is_incomplete = False
    if path.exists() and path.stat().st_size > 0:
        with path.open("rb") as file:
            file.seek(-1, 2)
            is_incomplete = file.read(1) != b"\n"
    opened = path.open("a", encoding="utf-8", buffering=1)
    if is_incomplete:
        opened.write("\n")
    return opened


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The values of all complete lines, in order; incomplete lines are skipped."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value
