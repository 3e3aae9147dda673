"""A conversation: lines of a user, and the answers of a model."""

from collections.abc import Callable, Iterable
from typing import Any

from bigtrain.generate.options import Decoding
from bigtrain.generate.prompts import Prompt
from bigtrain.generate.text_model import TextModel


def chat(
    model: TextModel, decoding: Decoding, lines: Iterable[str], write: Callable[[str], Any]
) -> None:
    """Answers each line, with all earlier lines and answers before it; skips blank lines.

    Args:
        model: Answers in the form of its tokenizer's chat template.
        decoding: How tokens are chosen. With beams an answer is written when it is complete.
        lines: What the user says.
        write: Receives the parts of the answers, and a line end after each answer.

    Raises:
        GenerationError: There is no chat template, or the conversation became too long for the
            model.
    """
    model.check_template()
    messages: list[dict[str, str]] = []
    for line in lines:
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line.rstrip("\r\n")})
        asked = [Prompt("the conversation", messages=tuple(messages))]
        if decoding.num_beams > 1:
            [answer] = model.continue_prompts(asked, decoding)
            write(answer.text)
        else:
            [answer] = model.stream_prompts(asked, decoding, write)
        write("\n")
        messages.append({"role": "assistant", "content": answer.text})
