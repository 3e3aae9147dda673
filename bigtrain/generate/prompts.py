"""Prompts from the command line and from files. No torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtrain.generate.errors import GenerationError

JSON_LINES = (".jsonl", ".ndjson")
"""File names of JSON Lines end like this; in other files each line is a prompt."""
_SHOWN_FIELDS = 8


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to continue, or the messages of a conversation to answer."""

    name: str
    """Where it is from, for messages."""
    text: str = ""
    """If it is empty and there are no messages, the model begins a document."""
    messages: tuple[Mapping[str, str], ...] = ()
    """Each has a ``role`` and a ``content``."""


def prompts_of_arguments(texts: Sequence[str]) -> list[Prompt]:
    """Makes prompts of the command's arguments; without any, one empty prompt.

    Raises:
        GenerationError: A text is not valid UTF-8.
    """
    name = "the prompt" if len(texts) == 1 else "prompt {}"
    found = [Prompt(name.format(number), text) for number, text in enumerate(texts, start=1)]
    for prompt in found:
        _check_text(prompt.text, prompt.name)
    return found or [Prompt("the empty prompt")]


def read_prompts(file: Path) -> tuple[list[Prompt], int]:
    """Reads prompts, one a line: JSON Lines with ``prompt`` or ``messages``, or plain text.

    Args:
        file: JSON Lines if its name ends with .jsonl or .ndjson.

    Returns:
        The prompts, and the number of blank lines that were skipped.

    Raises:
        GenerationError: A line is not a prompt, or there is none; names the line.
        OSError: The file cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise GenerationError(f"{file} is not UTF-8 text: byte {error.start}") from None
    if lines and lines[-1] == "":
        lines.pop()
    numbered = [(number, line.rstrip("\r")) for number, line in enumerate(lines, start=1)]
    filled = [(f"{file} line {number}", line) for number, line in numbered if line.strip()]
    if not filled:
        raise GenerationError(f"{file} has no prompt; write one a line")
    parse = _parse_json if file.suffix.lower() in JSON_LINES else Prompt
    return [parse(name, line) for name, line in filled], len(numbered) - len(filled)


def _parse_json(name: str, line: str) -> Prompt:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise GenerationError(f"{name} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise GenerationError(f"{name} is a JSON {type(value).__name__}, not an object")
    given = [field for field in ("prompt", "messages") if field in value]
    if len(given) != 1:
        has = "both 'prompt' and 'messages'" if given else "neither 'prompt' nor 'messages'"
        fields = ", ".join(map(repr, list(value)[:_SHOWN_FIELDS])) or "none"
        raise GenerationError(f"{name} has {has}; give one of them (its fields: {fields})")
    if given == ["messages"]:
        return Prompt(name, messages=_check_messages(value["messages"], name))
    if not isinstance(value["prompt"], str):
        kind = type(value["prompt"]).__name__
        raise GenerationError(f"{name} has a {kind} in 'prompt', not a string")
    _check_text(value["prompt"], name)
    return Prompt(name, value["prompt"])


def _check_messages(value: Any, name: str) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise GenerationError(f"{name}: 'messages' is not a list of messages")
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise GenerationError(
                f"{name}: message {number} is not an object with the strings 'role' and 'content'"
            )
        _check_text(message["content"], name)
    return tuple(value)


def _check_text(text: str, name: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise GenerationError(f"{name} is not valid text: {text[error.start]!a}") from None
