"""Prompts are read from files, and a line that is no prompt is named."""

from pathlib import Path

import pytest

from bigtrain.generate.errors import GenerationError
from bigtrain.generate.prompts import prompts_of_arguments, read_prompts


def test_each_line_of_a_text_file_is_a_prompt_and_blank_lines_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffimport os\r\n\n  def main(\n\n\u2028x".encode())
    found, blank = read_prompts(file)
    assert [prompt.text for prompt in found] == ["import os", "  def main(", "\u2028x"]
    assert [prompt.name.rpartition(" ")[2] for prompt in found] == ["1", "3", "5"]
    assert blank == 2


def test_json_lines_hold_prompts_and_messages(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"prompt": "a\\nb", "id": 7}\n{"prompt": ""}\n'
        '{"messages": [{"role": "user", "content": "hello"}]}\n'
    )
    found, _ = read_prompts(file)
    assert [prompt.text for prompt in found] == ["a\nb", "", ""]
    assert [prompt.messages for prompt in found] == [
        (),
        (),
        ({"role": "user", "content": "hello"},),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2 is not valid JSON"),
        ("[1]", "line 2 is a JSON list, not an object"),
        ('{"text": "a"}', "neither 'prompt' nor 'messages'; give one of them (its fields: 'text')"),
        ('{"prompt": "a", "messages": []}', "both 'prompt' and 'messages'"),
        ('{"prompt": 5}', "line 2 has a int in 'prompt', not a string"),
        ('{"messages": []}', "line 2: 'messages' is not a list of messages"),
        ('{"messages": ["a"]}', "line 2: message 1 is not an object with the strings 'role' and"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "user"}]}', "message 2 is not"),
        ('{"prompt": "\\ud800"}', "line 2 is not valid text: '\\ud800'"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(line: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "good"}}\n{line}\n')
    with pytest.raises(GenerationError) as refusal:
        read_prompts(file)
    assert problem in str(refusal.value)
    assert str(refusal.value).startswith(str(file))


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"\n \n", "has no prompt; write one a line"), (b"a\xff", "is not UTF-8 text: byte 1")],
)
def test_a_file_without_prompts_is_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(GenerationError, match=problem):
        read_prompts(file)


def test_without_arguments_the_model_begins_a_document() -> None:
    assert [prompt.text for prompt in prompts_of_arguments([])] == [""]
    assert [prompt.name for prompt in prompts_of_arguments(["a", "b"])] == ["prompt 1", "prompt 2"]
    with pytest.raises(GenerationError, match="the prompt is not valid text"):
        prompts_of_arguments(["a\udcff"])
