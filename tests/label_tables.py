"""Label tables of tiny tasks, for tests of their reading and of fine-tuning."""

import json
import random
from pathlib import Path
from typing import Any

from data_tools.labels.build_label_table import build_label_table
from data_tools.labels.label_options import LabelOptions

_WORDS = ("red", "blue", "one", "two", "house", "river", "cat", "dog")


def make_label_table(folder: Path, tokenizer: Path, *, rows: int = 60, pair: bool = True) -> Path:
    """Makes a table of a two-class task; returns its folder.

    The class is whether the first text has the word ``red`` or ``blue``; the others say nothing.
    """
    chance = random.Random(1)
    lines: list[dict[str, Any]] = []
    for number in range(rows):
        words = [chance.choice(_WORDS[2:]) for _ in range(chance.randint(1, 5))]
        words.insert(chance.randint(0, len(words)), _WORDS[number % 2])
        other = " ".join(chance.choice(_WORDS[2:]) for _ in range(chance.randint(1, 4)))
        lines.append({"one": " ".join(words), "two": other, "label": ("yes", "no")[number % 2]})
    columns = {"text": "one", "label": "label"} | ({"pair": "two"} if pair else {})
    return _build(folder, tokenizer, lines, columns)


def make_answer_table(folder: Path, tokenizer: Path, *, rows: int = 60) -> Path:
    """Makes a table of prompts whose answer is a function of the prompt; returns its folder."""
    chance = random.Random(2)
    lines = []
    for number in range(rows):
        words = [chance.choice(_WORDS) for _ in range(chance.randint(1, 5))]
        answer = " yes" if "red" in words else " no"
        lines.append({"question": f"{' '.join(words)} {number % 7}", "reply": answer})
    return _build(folder, tokenizer, lines, {"prompt": "question", "answer": "reply"})


def _build(
    folder: Path, tokenizer: Path, lines: list[dict[str, Any]], columns: dict[str, str]
) -> Path:
    folder.mkdir(parents=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = LabelOptions(columns=columns, validation_percent=20.0)
    build_label_table([str(path)], tokenizer=tokenizer, out=folder / "table", options=options)
    return folder / "table"
