"""Expands the paths in command-line arguments. Imports on first use, to keep `--help` fast."""

from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value", str, Path, list[str], list[Path], None)


def expanded(value: Value) -> Value:
    """Expands the path, or paths, of an argument or option; for typer's ``callback``.

    Raises:
        ConfigError: A path cannot be expanded; the message names it.
    """
    if value is None:
        return None
    from bigtrain.config.paths import expand_argument

    if isinstance(value, list):
        return [expand_argument(each) for each in value]
    return expand_argument(value)
