"""What the tests of `bigtrain generate` run in a rank of its own."""

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

VARIED = {"init_std": 0.5}
"""With these large weights a text is not one token again and again."""
TEMPLATE = (
    "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def call(*commands: Sequence[str | Path], lines: str = "") -> list[tuple[int, str, str]]:
    """Runs commands of `bigtrain` one after another; for ``run_ranks``.

    Returns:
        The exit code, standard output and standard error of each.
    """
    from bigtrain.cli import main

    found = []
    for words in commands:
        out, err, code = StringIO(), StringIO(), 0
        with ExitStack() as stack:
            stack.enter_context(patch("sys.argv", ["bigtrain", *map(str, words)]))
            stack.enter_context(patch("sys.stdin", StringIO(lines)))
            stack.enter_context(redirect_stdout(out))
            stack.enter_context(redirect_stderr(err))
            try:
                main()
            except SystemExit as end:
                code = int(end.code or 0)
        found.append((code, out.getvalue(), err.getvalue()))
    return found


def continue_texts(
    folder: Path, *calls: tuple[Sequence[str], dict[str, Any], dict[str, Any]]
) -> list[list[dict[str, Any]]]:
    """Continues texts with several decodings; for ``run_ranks``."""
    from bigtrain.generate.options import Decoding
    from bigtrain.generate.prompts import prompts_of_arguments
    from bigtrain.generate.text_model import TextModel

    model = TextModel(folder)
    return [
        [
            asdict(each)
            for each in model.continue_prompts(
                prompts_of_arguments(texts), Decoding(**decoding), **more
            )
        ]
        for texts, decoding, more in calls
    ]


def transformers_texts(folder: Path, text: str, *calls: dict[str, Any]) -> list[list[str]]:
    """What `model.generate` of transformers makes of a text; for ``run_ranks``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = tokenizer(text, return_tensors="pt")
    found = []
    for options in calls:
        torch.manual_seed(3)
        rows = model.generate(**asked, **options)[:, asked["input_ids"].shape[1] :]
        found.append(tokenizer.batch_decode(rows, skip_special_tokens=True))
    return found


def stream_texts(
    folder: Path, texts: Sequence[str], decoding: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """The parts that are written, with the prompts, and the texts; for ``run_ranks``."""
    from bigtrain.generate.options import Decoding
    from bigtrain.generate.prompts import prompts_of_arguments
    from bigtrain.generate.text_model import TextModel

    parts: list[str] = []
    asked = prompts_of_arguments(texts)
    found = TextModel(folder).stream_prompts(
        asked,
        Decoding(**decoding),
        parts.append,
        begin=lambda prompt: parts.append(f"<{prompt.text}>"),
    )
    return parts, [each.text for each in found]


def changed_copy(
    folder: Path, copy: Path, file: str, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> Path:
    """Copies an export with one of its JSON files changed."""
    shutil.copytree(folder, copy)
    values = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps(change(values)))
    return copy
