"""Shows a usage error as one line: the mistake, the nearest name, how to get help."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import typer

# Depending on its version, typer contains a copy of click or depends on the package.
ClickError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)
"""typer's usage error."""


def render_usage_error(error: Any) -> str:
    """Renders one line for the user, such as "no such option: --stpes; did you mean --steps?".

    Args:
        error: A ``ClickError``.
    """
    message = " ".join(error.format_message().split()).rstrip(".")
    mistake, _, suggestion = message.partition(" Did you mean ")
    mistake = mistake.split(" (Possible options:")[0].rstrip(".")
    parts = [mistake[:1].lower() + mistake[1:]]
    context = getattr(error, "ctx", None)
    if near := _nearest_name(error, context, suggestion):
        parts.append(f"did you mean {near}?")
    if context is not None:
        parts.append(f"see `{context.command_path} --help`")
    return "; ".join(parts)


def _nearest_name(error: Any, context: Any, suggestion: str) -> str:
    """The name that was probably meant; empty if there is none."""
    if suggestion:
        return suggestion.strip("'?").replace("', '", " or ")
    if context is None:
        return ""
    if option := getattr(error, "option_name", None):
        known = [name for parameter in context.command.params for name in parameter.opts]
        return " or ".join(get_close_matches(option, known, n=2))
    command = re.search(r"command '(.+?)'", error.format_message())
    if command is None:
        return ""
    return " or ".join(_full_names_of(command[1], context.find_root()))


def _full_names_of(command: str, context: Any) -> Iterator[str]:
    """Yields the full names of the commands with this name, in any group."""
    for name, group in getattr(context.command, "commands", {}).items():
        if name == command:  # The user gave it in a group.
            yield f"{context.command_path} {name}"
        elif command in getattr(group, "commands", {}):
            yield f"{context.command_path} {name} {command}"
