"""Expands and checks paths in configs and on command lines: ``~``, ``$VAR``, relative paths.

Only text that a user wrote is expanded. The paths in the config that a run saved are not.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from bigtrain.config.errors import ConfigError, section_of, show_value

_VARIABLE = re.compile(r"\$(?:(?P<name>\w+)|\{(?P<braced>[^{}]*)\}|(?P<command>\())", re.ASCII)
_COMMAND, _LOCAL = "pipe:", "file://"
_NAME = re.compile(r"\w+", re.ASCII)
HOLDS_PATHS = object()
"""Marks the fields of a config that hold one path or several."""

Argument = TypeVar("Argument", str, Path)


def expand_path(text: str) -> str:
    """Expands ``~``, ``~user``, ``$NAME`` and ``${NAME}``, as a shell does; in URLs too.

    Text that begins with ``pipe:`` is a shell command; the shell expands it.

    Raises:
        ConfigError: A variable is unset, empty or not in these forms, or there is no such user.
    """
    return text if text.startswith(_COMMAND) else _expand_home(expand_variables(text))


def expand_variables(text: str, *, what: str = "path") -> str:
    """Expands ``$NAME`` and ``${NAME}``.

    Args:
        text: What the user wrote.
        what: What it is, for messages.

    Raises:
        ConfigError: A variable is unset, empty or not in these forms.
    """
    return _VARIABLE.sub(partial(_value_of, what=what), text)


def expand_argument(argument: Argument) -> Argument:
    """Expands a path, or URL, of a command line.

    If a file of exactly this name exists, the argument is not expanded: a shell's glob gives names
    that hold a ``$`` or begin with a ``~``. Only ``~`` and ``~/...`` are always the home folder.

    Raises:
        ConfigError: It cannot be expanded; the message names the argument.
    """
    text = str(argument)
    if text.split("/", 1)[0] != "~" and os.path.lexists(text):
        return argument
    try:
        return type(argument)(expand_path(text))
    except ConfigError as error:
        raise ConfigError(f"{text}: {error}") from None


def check_path(text: str) -> str:
    """Checks a path of a config.

    Raises:
        ValueError: It is empty or holds control characters.
    """
    if not text.strip() or not text.isprintable():
        raise ValueError("a path must not be empty or contain control characters")
    return text


FolderPath = Annotated[str, AfterValidator(check_path), HOLDS_PATHS]
"""A path or URL in a config."""


def path_exists(path: Path) -> bool:
    """Whether something exists at a path; False also in a folder that this user may not enter."""
    try:
        return path.exists()
    except OSError:
        return False


def find_dangling_link(path: Path) -> Path | None:
    """The path, or the nearest folder above it, that is a dangling link; None if there is none."""
    return next((each for each in (path, *path.parents) if _is_dangling(each)), None)


def render_dangling_link(link: Path) -> str:
    """Renders the message about a dangling link, with the remedy."""
    return (
        f"{link}: a link to {link.readlink()}, which is not there; mount its disk, or fix or "
        "remove the link"
    )


def _is_dangling(path: Path) -> bool:
    try:
        return path.is_symlink() and not path.exists()
    except OSError:  # This user may not enter the link's folder, or its target's.
        return False


def expand_paths(values: Mapping[str, Any], schema: type[BaseModel]) -> dict[str, Any]:
    """Expands every path among the raw values of a config that a user wrote.

    Raises:
        ConfigError: A path cannot be expanded; the message names the key.
    """

    def expand(key: str, path: str) -> str:
        try:
            return expand_path(path)
        except ConfigError as error:
            raise ConfigError(f"{key}={show_value(path)}: {error}") from None

    return _map_paths(values, schema, expand)


def check_expanded(values: Mapping[str, Any], schema: type[BaseModel]) -> None:
    """Checks that no path of a config that a run has saved needs to be expanded.

    Raises:
        ConfigError: A path holds a variable or begins with ``~``, and no file has that exact name.
    """

    def check(key: str, path: str) -> str:
        if (path.startswith("~") or _VARIABLE.search(path)) and not path_exists(Path(path)):
            raise ConfigError(
                f"{key}={show_value(path)}: a path in the config of a run is not expanded; write "
                "it out there"
            )
        return path

    _map_paths(values, schema, check)


def relative_paths(values: Mapping[str, Any], schema: type[BaseModel]) -> list[str]:
    """The relative paths among the raw values of a config."""
    return [path for _, path in _all_paths(values, schema) if _is_relative(path)]


def absolute_paths(values: Mapping[str, Any], schema: type[BaseModel]) -> list[tuple[str, str]]:
    """The (key, path) of every absolute path, which is not a URL, among the values of a config."""
    return [(key, path) for key, path in _all_paths(values, schema) if Path(path).is_absolute()]


def _all_paths(values: Mapping[str, Any], schema: type[BaseModel]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def collect(key: str, path: str) -> str:
        found.append((key, path))
        return path

    _map_paths(values, schema, collect)
    return found


def move_relative_paths(
    values: Mapping[str, Any], schema: type[BaseModel], start: Path
) -> dict[str, Any]:
    """Puts ``start`` in front of relative paths, unless it is the working folder."""
    if start == Path.cwd():
        return dict(values)
    return join_relative_paths(values, schema, start)


def join_relative_paths(
    values: Mapping[str, Any], schema: type[BaseModel], start: Path
) -> dict[str, Any]:
    """Puts ``start`` in front of every relative path."""
    return _map_paths(
        values, schema, lambda _, path: str(start / path) if _is_relative(path) else path
    )


def _map_paths(
    values: Mapping[str, Any],
    schema: type[BaseModel],
    change: Callable[[str, str], str],
    prefix: str = "",
) -> dict[str, Any]:
    mapped = dict(values)
    for name, field in schema.model_fields.items():
        if name not in values:
            continue
        key, section = f"{prefix}{name}", section_of(schema, name)
        if _holds_paths(field):
            mapped[name] = _map_each(values[name], str, partial(change, key))
        elif section is not None:
            inner = partial(_map_paths, schema=section, change=change, prefix=f"{key}.")
            mapped[name] = _map_each(values[name], dict, inner)
    return mapped


def _map_each(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Changes a value of a type, or each such value of a list; validation refuses the others."""
    if isinstance(value, list | tuple):
        return [change(each) if isinstance(each, kind) else each for each in value]
    return change(value) if isinstance(value, kind) else value


def _holds_paths(field: FieldInfo) -> bool:
    return any(mark is HOLDS_PATHS for mark in _marks(field))


def _marks(field: FieldInfo) -> Iterator[object]:
    yield from field.metadata
    for kind in get_args(field.annotation):  # An optional field is a union with None.
        yield from getattr(kind, "__metadata__", ())


def _is_relative(path: str) -> bool:
    return "://" not in path and not Path(path).is_absolute()


def _value_of(match: re.Match[str], *, what: str) -> str:
    name = match["name"] or match["braced"]
    if match["command"] is not None or not name or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{match[0]} is not expanded, only $NAME and ${{NAME}} are; write the {what} out"
        )
    value = os.path.expandvars(f"${{{name}}}")
    if value == f"${{{name}}}":
        raise ConfigError(
            f"there is no environment variable {name}; set it, or write the {what} out"
        )
    if not value:
        raise ConfigError(f"the environment variable {name} is empty; set it to a {what}")
    if _VARIABLE.search(value):
        raise ConfigError(
            f"the environment variable {name} is {value!r}, which holds another variable; "
            "set it to its value"
        )
    return value


def _expand_home(text: str) -> str:
    scheme = _LOCAL if text.startswith(_LOCAL) else ""
    home, slash, rest = text.removeprefix(scheme).partition("/")
    if not home.startswith("~"):
        return text
    try:
        found = Path(home).expanduser()
    except RuntimeError:
        raise ConfigError(f"there is no user {home[1:]}; write the path out") from None
    if not found.is_absolute() or (home == "~" and os.path.expandvars("${HOME}") == ""):
        raise ConfigError("the environment variable HOME is not an absolute path; set it to one")
    return f"{scheme}{found}{slash}{rest}"
