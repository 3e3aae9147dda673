"""Reads a config from YAML files merged left to right, then ``a.b=value`` overrides."""

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from bigtrain.config.errors import ConfigError, render_validation_error, show_value
from bigtrain.config.file_errors import is_bad_input
from bigtrain.config.paths import (
    expand_argument,
    expand_paths,
    expand_variables,
    find_dangling_link,
    move_relative_paths,
    render_dangling_link,
)
from bigtrain.config.run import RunConfig
from bigtrain.config.saved import CONFIG_FILE, read_run_values, run_folder_of
from bigtrain.config.sections import Section
from bigtrain.config.yaml12 import parse_yaml, read_yaml_mapping, render_yaml

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
            configs; it may be a pipe. For a run folder, the config of its run is read.
        schema: The class of the config.

    Returns:
        The frozen config.

    Raises:
        ConfigError: A file is missing or not YAML, a key is unknown or a value is invalid.
    """
    files = [source for source in sources if not is_override(source)]
    overrides = [source for source in sources if is_override(source)]
    if not files:
        raise ConfigError(f"no config file given; installed ones: {_installed()}")
    values: dict[str, Any] = {}
    for file in files:
        values = _merge(values, _read_source(file, schema))
    for override in overrides:
        if override.startswith("relative_to="):
            raise ConfigError(f"{override}: it belongs in the file that holds the relative paths")
        values = _merge(values, _expand(_parse_override(override), schema))
    where = " + ".join(files)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(render_validation_error(error, schema, where)) from None


def is_override(source: str) -> bool:
    """Whether a source of a config is a ``a.b=value`` override, and not a file."""
    return _OVERRIDE.match(source) is not None


def render_config(config: RunConfig) -> str:
    """Renders the resolved config as YAML, which reads back as an equal config."""
    return render_yaml(config.model_dump(mode="json"))


def load_resolved_config(file: Path) -> RunConfig:
    """Reads a config that was resolved and checked before; expands nothing.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return RunConfig.model_validate(read_yaml_mapping(file))
    except ValidationError as error:
        raise ConfigError(render_validation_error(error, RunConfig, str(file))) from None


def find_config_file(name: str) -> Path:
    """Finds a YAML file in the working folder, then among the installed configs.

    Raises:
        ConfigError: It is in neither place.
    """
    for candidate in (Path(expand_argument(name)), _PACKAGED_CONFIGS / name):
        with _long_names_allowed(name):
            if candidate.exists() and not candidate.is_dir():  # It may be a pipe.
                return candidate
    if (link := find_dangling_link(Path(expand_argument(name)))) is not None:
        raise ConfigError(render_dangling_link(link))
    if "/" in name and not name.endswith((".yaml", ".yml")):
        raise ConfigError(
            f"{name}: no such config file or run folder; give a YAML file, or a folder such as "
            "runs/gpt-tiny"
        )
    raise ConfigError(f"{name}: no such config file; installed ones: {_installed()}")


@contextmanager
def _long_names_allowed(name: str) -> Iterator[None]:
    """Treats a name that is too long for a file as one that does not exist.

    Raises:
        ConfigError: The path cannot be used for another reason.
        OSError: The file system fails, perhaps only for a time.
    """
    try:
        yield
    except OSError as error:
        if not is_bad_input(error):
            raise
        if error.errno != errno.ENAMETOOLONG:
            raise ConfigError(f"{name}: {error.strerror or error}") from None


def _installed() -> str:
    files = (_PACKAGED_CONFIGS / "configs").rglob("*.yaml")
    return ", ".join(sorted(str(file.relative_to(_PACKAGED_CONFIGS)) for file in files))


def _read_source(name: str, schema: type[Section]) -> dict[str, Any]:
    """The values of a file or of the run in a folder; paths start from the working folder."""
    place = Path(expand_argument(name))
    with _long_names_allowed(name):
        if not issubclass(schema, RunConfig):
            pass
        elif (folder := run_folder_of(place)) is not None:
            return read_run_values(folder, CONFIG_FILE if place.is_dir() else place.name)
        elif name and place.is_dir():
            raise ConfigError(_explain_no_run(place))
    values = _expand_file(name, schema)
    if "relative_to" not in schema.model_fields:
        return values
    start = values.pop("relative_to", None)
    if not isinstance(start, str):
        return values if start is None else {**values, "relative_to": start}
    return move_relative_paths(values, schema, Path.cwd() / start)


def _expand(values: dict[str, Any], schema: type[Section]) -> dict[str, Any]:
    """Expands the paths that a user wrote, and the variables of a run's name."""
    values = expand_paths(values, schema)
    if issubclass(schema, RunConfig) and isinstance(name := values.get("name"), str):
        values["name"] = _expand_name(name)
    return values


def _expand_file(name: str, schema: type[Section]) -> dict[str, Any]:
    values = read_yaml_mapping(find_config_file(name), name)
    try:
        return _expand(values, schema)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _expand_name(name: str) -> str:
    try:
        expanded = expand_variables(name, what="name")
    except ConfigError as error:
        raise ConfigError(f"name={show_value(name)}: {error}") from None
    if expanded.startswith("~"):
        raise ConfigError(f"name={show_value(name)}: ~ means a home folder; give a word")
    return expanded


def _explain_no_run(folder: Path) -> str:
    """Why a run cannot be launched from a folder."""
    if (folder / CONFIG_FILE).is_file():
        why = f"it is a folder in which no run has begun; give {folder / CONFIG_FILE} itself"
    elif any(folder.iterdir()):
        why = f"it is a folder without a {CONFIG_FILE}, so it is not a run folder; give a YAML file"
    else:
        why = "it is an empty folder; give a YAML file or a run folder"
    return f"{folder}: no such config file: {why}"


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
