"""A command that was typed wrongly, told in one line: the mistake, the nearest name, the help."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import typer

# typer carries click within it, or uses the package: it depends on its version.
ClickError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)
"""What is wrong with a command line, for typer."""


def render_usage_error(error: Any) -> str:
    """Renders one line for the user, such as "no such option: --stpes; did you mean --steps?".

    Args:
        error: A ``ClickError``.
    """
    message = " ".join(error.format_message().split()).rstrip(".")
    said, _, suggestion = message.partition(" Did you mean ")
    said = said.split(" (Possible options:")[0].rstrip(".")
    parts = [said[:1].lower() + said[1:]]
    context = getattr(error, "ctx", None)
    if near := _near(error, context, suggestion):
        parts.append(f"did you mean {near}?")
    if context is not None:
        parts.append(f"see `{context.command_path} --help`")
    return "; ".join(parts)


def _near(error: Any, context: Any, suggestion: str) -> str:
    """The name that was probably meant; empty where there is none."""
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
    return " or ".join(_places_of(command[1], context.find_root()))


def _places_of(command: str, context: Any) -> Iterator[str]:
    """Where a command of this name is, whatever group it was looked for in."""
    for name, group in getattr(context.command, "commands", {}).items():
        if name == command:  # It was looked for in a group.
            yield f"{context.command_path} {name}"
        elif command in getattr(group, "commands", {}):
            yield f"{context.command_path} {name} {command}"
