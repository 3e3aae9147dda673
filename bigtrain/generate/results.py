"""What was generated: as lines for the terminal and as JSON Lines. No torch."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bigtrain.generate.prompts import Prompt
from data_tools.files import write_file

Finish = Literal["eos", "stop", "length"]


@dataclass(frozen=True, slots=True)
class Continuation:
    """One text that a model generated."""

    prompt: Prompt
    text: str
    """Without the prompt, and without the stop string."""
    prompt_tokens: int
    new_tokens: int
    """Generated tokens, without the eos; with those of a stop string."""
    finish: Finish
    """Why it ended: the model ended it, a stop string, or the number of tokens."""
    number: int = 1
    """From 1 among the texts of its prompt."""
    score: float | None = None
    """Of a beam: the sum of the log-probabilities, divided by length ** length_penalty."""


@dataclass(frozen=True, slots=True)
class FilledMask:
    """The most likely tokens at one masked position, most likely first."""

    tokens: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FilledText:
    """A prompt with masked tokens, and what the model puts there."""

    prompt: Prompt
    masks: tuple[FilledMask, ...]


Result = Continuation | FilledText


def render_results(results: Sequence[Result]) -> Iterator[str]:
    """Renders what a terminal shows; several texts have a heading each."""
    for result in results:
        if isinstance(result, FilledText):
            yield from _render_filled(result)
            continue
        if len(results) > 1:
            yield heading(result.prompt, result)
        yield result.prompt.text + result.text


def render_json_lines(results: Sequence[Result]) -> Iterator[str]:
    """Renders one JSON object for each result."""
    for result in results:
        yield json.dumps(_as_json(result), ensure_ascii=False)


def write_results(file: Path, results: Sequence[Result]) -> None:
    """Writes JSON Lines; the file appears complete or not at all."""
    write_file(file, "".join(f"{line}\n" for line in render_json_lines(results)).encode())


def heading(prompt: Prompt, result: Continuation | None = None) -> str:
    """The line above a text, where there are several."""
    if result is None or result.score is None:
        number = f", text {result.number}" if result is not None and result.number > 1 else ""
        return f"=== {prompt.name}{number}"
    return f"=== {prompt.name}, text {result.number}, score {result.score:.4f}"


def _render_filled(result: FilledText) -> Iterator[str]:
    yield result.prompt.text
    for number, mask in enumerate(result.masks, start=1):
        guesses = zip(mask.tokens, mask.probabilities, strict=True)
        shown = ", ".join(f"{token!r} {probability:.3f}" for token, probability in guesses)
        yield f"  mask {number}: {shown}"


def _as_json(result: Result) -> dict[str, Any]:
    prompt = result.prompt
    asked: dict[str, Any] = (
        {"messages": [*prompt.messages]} if prompt.messages else {"prompt": prompt.text}
    )
    if isinstance(result, FilledText):
        masks = [
            [
                {"token": token, "probability": probability}
                for token, probability in zip(mask.tokens, mask.probabilities, strict=True)
            ]
            for mask in result.masks
        ]
        return {"name": prompt.name, **asked, "masks": masks}
    score = {} if result.score is None else {"score": result.score}
    return {
        "name": prompt.name,
        **asked,
        "number": result.number,
        "text": result.text,
        "finish": result.finish,
        "prompt_tokens": result.prompt_tokens,
        "new_tokens": result.new_tokens,
        **score,
    }
