"""Reads a config from YAML files merged left to right, then ``a.b=value`` overrides."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from bigtrain.config.errors import ConfigError, render_validation_error, show_value
from bigtrain.config.run import RunConfig
from bigtrain.config.sections import Section
from bigtrain.config.yaml12 import parse_yaml, render_yaml

AnySection = TypeVar("AnySection", bound=Section)

_PACKAGED_CONFIGS = Path(__file__).resolve().parents[2]
_OVERRIDE = re.compile(r"^[^/=]*=")


def load_run_config(sources: Sequence[str]) -> RunConfig:
    """Reads and checks a run's config, as `load_config` does."""
    return load_config(sources, RunConfig)


def load_config(sources: Sequence[str], schema: type[AnySection]) -> AnySection:
    """Reads and checks a config.

    Args:
        sources: YAML files, merged left to right, and ``a.b=value`` overrides, which win over
            every file. A file is looked for in the working folder, then among the installed
            configs.
        schema: What the config is.

    Returns:
        The frozen config.

    Raises:
        ConfigError: A file is missing or no YAML, a key is unknown, or a value cannot be; one line.
    """
    files = [source for source in sources if not _OVERRIDE.match(source)]
    overrides = [source for source in sources if _OVERRIDE.match(source)]
    if not files:
        raise ConfigError(f"no config file given; installed ones: {_installed()}")
    values: dict[str, Any] = {}
    for file in files:
        values = _merge(values, _load_yaml(file))
    for override in overrides:
        values = _merge(values, _parse_override(override))
    where = " + ".join(files)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(render_validation_error(error, schema, where)) from None


def render_config(config: RunConfig) -> str:
    """Writes the resolved config as YAML; read again, it gives an equal config."""
    return render_yaml(config.model_dump(mode="json"))


def find_config_file(name: str) -> Path:
    """Finds a YAML file in the working folder, then among the installed configs.

    Raises:
        ConfigError: It is in neither place.
    """
    for candidate in (Path(name), _PACKAGED_CONFIGS / name):
        with suppress(OSError):  # A name too long to be a file's.
            if candidate.is_file():
                return candidate
    raise ConfigError(f"{name}: no such config file; installed ones: {_installed()}")


def _installed() -> str:
    files = (_PACKAGED_CONFIGS / "configs").rglob("*.yaml")
    return ", ".join(sorted(str(file.relative_to(_PACKAGED_CONFIGS)) for file in files))


def _load_yaml(name: str) -> dict[str, Any]:
    path = find_config_file(name)
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{name}: a config is a mapping such as 'seed: 1', not {show_value(values)}"
        )
    return values


def _parse_override(override: str) -> dict[str, Any]:
    path, _, text = override.partition("=")
    keys = path.split(".")
    if not all(keys):
        raise ConfigError(
            f"{override}: a key path is words joined by single dots, such as train.steps=50"
        )
    try:
        value = parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(
            f"{override}: {error}; quote the value for the shell and for YAML"
        ) from None
    for key in reversed(keys):
        value = {key: value}
    return value  # type: ignore[no-any-return]


def _merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in update.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged
