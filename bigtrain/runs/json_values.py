"""Reads values from the JSON files of a run folder that other processes write.

The files may be absent, damaged, or written by a newer version. A value that is not valid is None,
and a file that cannot be read adds one line to a list of problems.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def read_object(file: Path, problems: list[str]) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        file: The file.
        problems: Receives one line if the file is damaged or cannot be read.

    Returns:
        The object; empty if there is none.
    """
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        problems.append(f"{file} cannot be read: {error.strerror or error}")
        return {}
    except ValueError as error:
        problems.append(f"{file} is damaged ({error}): what it says is not shown")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{file} is damaged (not a JSON object): what it says is not shown")
        return {}
    return value


def parse_time(value: object) -> float | None:
    """Parses an ISO time, or a number of seconds since 1970; None if it is neither."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def whole(value: object, default: int | None = None) -> int | None:
    """The value if it is a whole number, else the default."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def number(value: object) -> float | None:
    """The value if it is a number, else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]
