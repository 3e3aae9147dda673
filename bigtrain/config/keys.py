"""Renders every key of a config with its default and meaning, as YAML to copy from."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bigtrain.config.cluster import ClusterConfig
from bigtrain.config.errors import ConfigError, section_of, show_value, suggest_key
from bigtrain.config.run import RunConfig


def render_keys(section: str | None = None) -> Iterator[str]:
    """Lists the keys of a run, one comment and one line of YAML for each.

    Args:
        section: Only the keys of this section, such as ``parallel``; ``cluster`` gives the keys
            of a cluster profile, which is a file of its own.

    Raises:
        ConfigError: There is no such section.
    """
    if section is None:
        yield from _render(RunConfig, indent="")
        return
    if section == "cluster":
        yield from _render(ClusterConfig, indent="")
        return
    schema = section_of(RunConfig, section)
    if schema is None:
        raise ConfigError(f"{section}: {suggest_key(section, RunConfig)}")
    yield f"{section}:"
    yield from _render(schema, indent="  ")


def _render(schema: type[BaseModel], *, indent: str) -> Iterator[str]:
    for name, field in schema.model_fields.items():
        section = section_of(schema, name)
        description = field.description or (section.__doc__ if section else None) or ""
        yield from _comment(description, indent)
        may_be_left_out = bool(get_args(field.annotation))
        if section is None or may_be_left_out:
            yield f"{indent}{name}: {_default(field)}"
        else:
            yield f"{indent}{name}:"
        if section is not None:
            inner = f"{indent}#   " if may_be_left_out else f"{indent}  "
            yield from _render(section, indent=inner)


def _comment(text: str, indent: str) -> Iterator[str]:
    for line in filter(None, (line.strip() for line in text.splitlines())):
        yield f"{indent}# {line}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "# must be given"
    default: Any = field.get_default(call_default_factory=True)
    if isinstance(default, str):
        return default
    return (
        "[]"
        if default == ()
        else show_value(list(default) if isinstance(default, tuple) else default)
    )
