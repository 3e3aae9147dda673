"""Turns what is wrong with a config into one line: the key path, the value and the remedy."""

from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError


class ConfigError(ValueError):
    """What the user asked for cannot be done; the message is one line and says how to mend it."""


def render_validation_error(error: ValidationError, schema: type[BaseModel], where: str) -> str:
    """Describes every problem of a failed validation in one line.

    Args:
        error: What pydantic raised.
        schema: The config class that was validated, for suggestions of nearby keys.
        where: The files (and overrides) that the values came from.

    Returns:
        ``where: key=value is wrong so; remedy`` for the first problem, with a count of others.
    """
    problems = [_render_problem(dict(problem), schema) for problem in error.errors()]
    more = (
        f" (and {len(problems) - 1} more: {'; '.join(problems[1:])})" if len(problems) > 1 else ""
    )
    return f"{where}: {problems[0]}{more}"


def _render_problem(problem: dict[str, Any], schema: type[BaseModel]) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location)
    value = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            return f"{path}={value!r}: there is no such key{_suggestion(location, schema)}"
        case "missing":
            return f"{path} is missing; set it in the YAML file or as {path}=VALUE"
        case "value_error":
            # A rule of ours: its text already names key, value and remedy.
            reason = str(problem["ctx"]["error"])
            return reason if isinstance(value, dict) else f"{path}={value!r}: {reason}"
        case _:
            return f"{path}={value!r}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


def _suggestion(location: list[str], schema: type[BaseModel]) -> str:
    section: type[BaseModel] | None = schema
    for part in location[:-1]:
        section = _section_of(section, part)
        if section is None:
            return ""
    names = list(section.model_fields)
    near = get_close_matches(location[-1], names, n=1)
    if near:
        return f"; did you mean {'.'.join([*location[:-1], near[0]])}?"
    return f"; known keys: {', '.join(sorted(names))}"


def _section_of(schema: type[BaseModel] | None, key: str) -> type[BaseModel] | None:
    field = schema.model_fields.get(key) if schema is not None else None
    annotation = field.annotation if field is not None else None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None
