"""Reads and writes YAML 1.2 (core schema). PyYAML itself reads YAML 1.1, where `no` is false."""

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from bigtrain.config.errors import ConfigError, show_value
from bigtrain.config.file_errors import is_bad_input

_TAG = "tag:yaml.org,2002:"
_TOO_LARGE = 2**63
_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+0123456789."],
    ),
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
)
"""Tag, pattern and first characters (YAML 1.2.2, section 10.3.2)."""


class _Loader(yaml.SafeLoader):
    """Reads the core schema only, and refuses a mapping that gives a key twice."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - the name and type are PyYAML's
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (*(_TAG + name for name in ("null", "bool", "float", "str", "seq")), None)
    }


class _Dumper(yaml.SafeDumper):
    """Quotes text that a reader of YAML 1.1 or 1.2 would not read as text."""


for _name, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    try:
        value = int(text, 0) if text.startswith(("0x", "0o")) else int(text)
    except ValueError:
        value = _TOO_LARGE
    if abs(value) >= _TOO_LARGE:
        raise ConfigError(
            f"line {node.start_mark.line + 1}: {show_value(text)} is not a whole number below 2^63"
        )
    return value


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.tag != f"{_TAG}str":
            shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
            raise ConfigError(f"line {line}: a key is a word, not {shown}; give one, or quote it")
        if key.value in seen:
            raise ConfigError(
                f"line {line}: the key {key.value!r} was already given on line "
                f"{seen[key.value]}; keep one of them"
            )
        seen[key.value] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(f"{_TAG}int", _construct_int)
_Loader.add_constructor(f"{_TAG}map", _construct_mapping)


def parse_yaml(text: str) -> Any:
    """Reads one YAML document.

    Raises:
        ConfigError: It is not YAML, or gives a key twice; one line, with the line number.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}: " if mark else ""
        reason = f"{error.context or ''} {error.problem}"
        raise ConfigError(f"{line}not readable as YAML: {reason}") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(
            f"not readable as YAML: {error.reason} (character {error.position})"
        ) from None
    except RecursionError:
        raise ConfigError("not readable as YAML: nested too deeply") from None
    except (ValueError, KeyError) as error:
        raise ConfigError(f"not readable as YAML: a value does not fit its tag: {error}") from None


def read_yaml_mapping(path: Path, name: str | None = None) -> dict[str, Any]:
    """Reads a file that holds a mapping; an empty file is an empty mapping.

    Args:
        path: A file, or a pipe, which is read once.
        name: What the user calls it, for messages.

    Raises:
        ConfigError: There is no such file, or it does not hold a mapping; one line.
        OSError: The file system fails, perhaps only for a time.
    """
    name = name or str(path)
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        if not is_bad_input(error):
            raise
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{name}: a config is a mapping such as 'seed: 1', not {show_value(values)}"
        )
    return values


def render_yaml(values: dict[str, Any]) -> str:
    """Renders YAML that reads back as equal values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
