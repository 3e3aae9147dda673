"""Reads a config from YAML files merged left to right, then ``a.b=value`` overrides."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bigtrain.config.errors import ConfigError, render_validation_error
from bigtrain.config.run import RunConfig

_PACKAGED_CONFIGS = Path(__file__).resolve().parents[2]
_OVERRIDE = re.compile(r"^[A-Za-z_][\w.]*=")


class _Yaml12Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1; this reads scalars as YAML 1.2's core schema and refuses twin keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the name and shape are PyYAML's


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
):
    _Yaml12Loader.add_implicit_resolver(  # type: ignore[no-untyped-call]
        f"tag:yaml.org,2002:{_tag}",
        re.compile(rf"^(?:{_pattern})$"),
        [*_first, ""] if _tag == "null" else list(_first),
    )


def _construct_int(loader: _Yaml12Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    try:
        value = int(text, 0) if text.startswith(("0x", "0o")) else int(text)
    except ValueError:
        value = _TOO_LARGE
    if abs(value) >= _TOO_LARGE:
        line = node.start_mark.line + 1
        raise ConfigError(f"line {line}: {show_value(text)} is no whole number below 2^63")
    return value


def _construct_mapping(loader: _Yaml12Loader, node: yaml.MappingNode) -> dict[str, Any]:
    seen: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if key_node.tag != "tag:yaml.org,2002:str":
            shown = show_value(key_node.value) if isinstance(key_node.value, str) else "a structure"
            raise ConfigError(f"line {line}: a key is a word, not {shown}; quote it if it is meant")
        if key_node.value in seen:
            raise ConfigError(
                f"line {line}: the key {key_node.value!r} was already given on line "
                f"{seen[key_node.value]}; keep one"
            )
        seen[key_node.value] = line
    return loader.construct_mapping(node, deep=True)


_CORE_TAGS = ("null", "bool", "float", "str", "seq")
_Yaml12Loader.yaml_constructors = {
    **{tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (f"tag:yaml.org,2002:{t}" for t in _CORE_TAGS)},
    None: yaml.SafeLoader.yaml_constructors[None],
}
_Yaml12Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Yaml12Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def load_run_config(sources: Sequence[str]) -> RunConfig:
    """Reads and checks a run's config.

    Args:
        sources: YAML files, merged left to right, and ``a.b=value`` overrides, which win over
            every file. A file is looked for in the working folder, then among the installed
            configs.

    Returns:
        The frozen config.

    Raises:
        ConfigError: A file is missing or no YAML, a key is unknown, or a value cannot be; one line.
    """
    files = [source for source in sources if not _OVERRIDE.match(source)]
    overrides = [source for source in sources if _OVERRIDE.match(source)]
    if not files:
        raise ConfigError("no config file given; try configs/gpt/tiny.yaml")
    values: dict[str, Any] = {}
    for file in files:
        values = _merge(values, _load_yaml(file))
    for override in overrides:
        values = _merge(values, _parse_override(override))
    where = " + ".join(files)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(render_validation_error(error, RunConfig, where)) from None


def render_config(config: RunConfig) -> str:
    """Writes the resolved config as YAML; read again, it gives an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def find_config_file(name: str) -> Path:
    """Finds a YAML file in the working folder, then among the installed configs.

    Raises:
        ConfigError: It is in neither place.
    """
    for candidate in (Path(name), _PACKAGED_CONFIGS / name):
        if candidate.is_file():
            return candidate
    known = sorted(
        str(path.relative_to(_PACKAGED_CONFIGS))
        for path in (_PACKAGED_CONFIGS / "configs").rglob("*.yaml")
    )
    raise ConfigError(f"{name}: no such config file; installed ones: {', '.join(known)}")


def _load_yaml(name: str) -> dict[str, Any]:
    path = find_config_file(name)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Yaml12Loader)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: not readable as YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: a config is a mapping of keys to values, not {values!r}")
    return values


def _parse_override(override: str) -> dict[str, Any]:
    path, _, text = override.partition("=")
    try:
        value = yaml.load(text, Loader=_Yaml12Loader)
    except (yaml.YAMLError, ConfigError) as error:
        raise ConfigError(
            f"{override}: the value is no YAML: {' '.join(str(error).split())}"
        ) from None
    for key in reversed(path.split(".")):
        value = {key: value}
    return value  # type: ignore[no-any-return]


def _merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in update.items():
        old = merged.get(key)
        merged[key] = (
            _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged
