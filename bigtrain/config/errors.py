"""Renders the errors of a config in one line: key path, value and remedy."""

from collections.abc import Iterator
from difflib import get_close_matches
from reprlib import Repr
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_SHOWN_PROBLEMS = 5
_SHORT_REPR = Repr()
# A value may be a whole file, or a YAML alias that expands to millions of values.
_SHORT_REPR.maxlevel, _SHORT_REPR.maxdict, _SHORT_REPR.maxlist, _SHORT_REPR.maxstring = 2, 4, 4, 80


class ConfigError(ValueError):
    """What the user asked for cannot be done; the message is one line and names the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def render_validation_error(error: ValidationError, schema: type[BaseModel], where: str) -> str:
    """Describes the problems of a failed validation in one line.

    Args:
        error: What pydantic raised.
        schema: The config class that was validated, for suggestions of nearby keys.
        where: The files (and overrides) that the values came from.

    Returns:
        ``where: key=value: what is wrong; remedy`` for the first problem, then the next few.
    """
    problems = [_render_problem(dict(problem), schema) for problem in error.errors()]
    first, *others = problems
    if not others:
        return f"{where}: {first}"
    shown = "; ".join(others[: _SHOWN_PROBLEMS - 1])
    rest = "; …" if len(problems) > _SHOWN_PROBLEMS else ""
    return f"{where}: {first} (and {len(others)} more: {shown}{rest})"


def show_value(value: Any) -> str:
    """Renders a value as YAML does, shortened where it is long."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case _:
            return _SHORT_REPR.repr(value)


def suggest_key(path: str, schema: type[BaseModel]) -> str:
    """The remedy for an unknown key: the nearest known key, or the keys of its section."""
    *sections, name = path.split(".")
    section = _section_at(schema, sections)
    names = list(section.model_fields) if section is not None else []
    near = get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {'.'.join([*sections, near[0]])}?"
    elsewhere = [key for key in key_paths(schema) if key.split(".")[-1] == name]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere[:3])}?"
    return f"known keys: {', '.join(sorted(names or schema.model_fields))}"


def key_paths(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yields the keys of a config with their full paths, such as ``model.num_layers``.

    An optional section, such as ``train.batch_ramp``, is one key.
    """
    for name, field in schema.model_fields.items():
        section = section_of(schema, name)
        if section is not None and not get_args(field.annotation):
            yield from key_paths(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def section_of(schema: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The section that ``key`` names in ``schema``; None if it names a value or does not exist."""
    field = schema.model_fields.get(key)
    annotation = field.annotation if field is not None else None
    for kind in get_args(annotation) or (annotation,):  # An optional section is a union with None.
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _render_problem(problem: dict[str, Any], schema: type[BaseModel]) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location)
    value = problem["input"]
    shown = f"{path}={show_value(value)}"
    match problem["type"]:
        case "extra_forbidden" if "." in location[-1]:
            parent, key = location[-1].split(".", 1)
            return f"{shown}: a dotted key is for overrides; in a file write {key} under {parent}:"
        case "extra_forbidden":
            return f"{shown}: there is no such key; {suggest_key(path, schema)}"
        case "missing":
            example = path
            if section := _section_at(schema, location):
                fields = section.model_fields
                example = f"{path}.{min(fields, key=lambda name: not fields[name].is_required())}"
            return f"{path} is missing; set it in the YAML file or as {example}=VALUE"
        case "model_type" | "dict_type":
            fields = (_section_at(schema, location) or schema).model_fields
            return (
                f"{shown}: this is a section; give keys under it ({', '.join(sorted(fields))}) "
                "or leave it out"
            )
        case "value_error":
            # One of bigtrain's own rules: its text already names key, value and remedy.
            reason = str(problem["ctx"]["error"])
            return reason if isinstance(value, dict) else f"{shown}: {reason}"
        case _:
            return f"{shown}: {_type_remedy(problem)}"


def _type_remedy(problem: dict[str, Any]) -> str:
    context = problem.get("ctx", {})
    match problem["type"]:
        case "int_type" | "int_from_float":
            return "give a whole number"
        case "float_type":
            return "give a number"
        case "finite_number":
            return "give a finite number"
        case "bool_type":
            return "give true or false"
        case "string_type":
            return "give text; quote it if YAML reads it as something else"
        case "tuple_type":
            return "give a list, such as [a, b]"
        case "literal_error":
            return f"give {context['expected']}"
        case "greater_than":
            return f"give a number above {context['gt']:g}"
        case "greater_than_equal":
            return f"give {context['ge']:g} or more"
        case "less_than":
            return f"give a number below {context['lt']:.10g}"
        case "less_than_equal":
            return f"give {context['le']:g} or less"
        case _:
            return f"{problem['msg'][:1].lower()}{problem['msg'][1:]}"


def _section_at(schema: type[BaseModel], location: list[str]) -> type[BaseModel] | None:
    section: type[BaseModel] | None = schema
    for part in location:
        section = section_of(section, part) if section is not None else None
    return section
