"""How an error is reported to the user and to the launcher."""

import json
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bigtrain.config.file_errors import is_bad_input
from bigtrain.environment import RankVariableError, read_error_file, read_ranks


def explain(error: Exception) -> tuple[str, int, bool]:
    """Returns the line for the user, the exit code, and whether the error is an expected one."""
    is_ours = type(error).__module__.split(".")[0] in {"bigtrain", "data_tools", "launcher"}
    if is_ours and isinstance(error, ValueError | RuntimeError):
        # Storage that fails for a time is no bad input, although its error is a ValueError.
        is_temporary = getattr(error, "is_temporary", False)
        return str(error), 2 if isinstance(error, ValueError) and not is_temporary else 1, True
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror or error}", 2 if is_bad_input(error) else 1, True
    if isinstance(error, UnicodeDecodeError):
        return f"a text is not UTF-8: {error}", 2, True
    return f"{type(error).__name__}: {error}", 1, False


def write_error_report(
    message: str, exit_code: int, *, divergence: Mapping[str, int] | None = None
) -> Path | None:
    """Writes a file for the launcher, if there is one: why and when this rank failed.

    Args:
        message: The message, one line.
        exit_code: The exit code of this process.
        divergence: If the loss guard gave up, the planned rewind, which skips the samples.

    Returns:
        The file, which the launcher shows to the user; None if none was written.
    """
    file = read_error_file()
    if file is None:
        return None
    report: dict[str, Any] = {
        "rank": _rank(),
        "exit_code": exit_code,
        "message": message,
        "traceback": traceback.format_exc(),
        "time": time.time(),
    }
    if divergence is not None:
        report["divergence"] = dict(divergence)
    try:
        file.write_text(json.dumps(report), encoding="utf-8")
    except OSError:  # For example a full disk. Then this rank shows the message itself.
        return None
    return file


def _rank() -> int:
    try:
        return read_ranks().rank
    except RankVariableError:  # This may be the error that is being reported.
        return 0
