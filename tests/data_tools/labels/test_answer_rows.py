"""Prompts, answers and chats become rows in which only the tokens of answers count."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from data_tools.errors import InputError
from data_tools.labels.label_table import LabelTable
from tests.data_tools.labels.chat_tokenizers import (
    ALTERNATING,
    CHATML,
    FORGETFUL,
    MARKED,
    write_chat_tokenizer,
)
from tests.data_tools.labels.labelled_files import make_table, write_rows

PROMPTS = {"prompt": "question", "answer": "reply"}
CHATS = {"messages": "chat"}
CHAT = [
    {"role": "system", "content": "the hat 中"},
    {"role": "user", "content": "hello\nworld"},
    {"role": "assistant", "content": "the cat sat"},
    {"role": "user", "content": " and the mat?"},
    {"role": "assistant", "content": "theme 1999  "},
]


def rows_of(table: LabelTable) -> list[tuple[list[int], list[bool]]]:
    """The tokens of each row, and which of them count."""
    rows = table.read(np.arange(table.num_rows))
    cuts = rows.offsets[1:-1]
    parts = zip(np.split(rows.tokens, cuts), np.split(rows.is_answer, cuts), strict=True)
    return [(tokens.tolist(), counted.tolist()) for tokens, counted in parts]


def chat_table(tmp_path: Path, chats: list, template: str | None = CHATML, **options) -> LabelTable:
    """A table of chats with a tokenizer that has this template."""
    folder = tmp_path / "hf"
    if not folder.exists():
        write_chat_tokenizer(folder, template)
    path = write_rows(tmp_path / "rows.jsonl", [{"chat": chat} for chat in chats])
    return make_table(path, folder, tmp_path / "out", columns=CHATS, **options)


def own_tokenizer(tmp_path: Path, template: str) -> PreTrainedTokenizerFast:
    """What a user of transformers loads."""
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path / "hf")
    loaded.chat_template = template
    return loaded


def test_an_answer_and_its_end_count_and_its_prompt_does_not(tmp_path, tokenizer):
    rows = [{"question": f"the cat {n}", "reply": f" sat on {n} hills"} for n in range(5)]
    path = write_rows(tmp_path / "rows.csv", rows)
    with make_table(path, tokenizer, tmp_path / "out", columns=PROMPTS) as table:
        for row, (tokens, counted) in zip(rows, rows_of(table), strict=True):
            prompt = tokenizer.encode(row["question"]).tolist()
            answer = [*tokenizer.encode(row["reply"]).tolist(), tokenizer.special.eos]
            assert tokens == prompt + answer
            assert counted == [False] * len(prompt) + [True] * len(answer)
        assert table.manifest.num_answer_tokens == sum(sum(it[1]) for it in rows_of(table))


def test_cut_prompts_keep_their_end_and_cut_answers_their_beginning(tmp_path, tokenizer):
    rows = [
        {"question": "two dogs " * 20 + "saw a mat", "reply": "the"},
        {"question": "a mat", "reply": "the cat " + "two dogs " * 20},
    ]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    job = {"columns": PROMPTS, "max_length": 14, "truncate": True}
    with make_table(path, tokenizer, tmp_path / "out", **job) as table:
        first, second = rows_of(table)
    whole = tokenizer.encode(rows[0]["question"]).tolist()
    answer = [*tokenizer.encode("the").tolist(), tokenizer.special.eos]
    assert first == (
        whole[-(14 - len(answer)) :] + answer,
        [False] * (14 - len(answer)) + [True] * len(answer),
    )
    prompt = tokenizer.encode("a mat").tolist()
    kept = tokenizer.encode(rows[1]["reply"]).tolist()[: 14 - len(prompt)]
    assert second[0] == prompt + kept


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_chats_have_the_tokens_of_transformers_and_only_answers_count(tmp_path, template):
    with chat_table(tmp_path, [CHAT, CHAT[:3]], template) as table:
        rows = rows_of(table)
        assert (table.folder / "chat_template.jinja").read_text() == template
    theirs = own_tokenizer(tmp_path, template)
    for chat, (tokens, counted) in zip([CHAT, CHAT[:3]], rows, strict=True):
        assert tokens == theirs.apply_chat_template(chat, return_dict=False)
        answers = np.split(tokens, np.flatnonzero(np.diff(counted)) + 1)[1::2]
        said = [it["content"] for it in chat if it["role"] == "assistant"]
        assert [theirs.decode(answer) for answer in answers] == [f"{it}<|im_end|>" for it in said]


def test_marked_answers_are_those_of_transformers(tmp_path):
    with chat_table(tmp_path, [CHAT], MARKED) as table:
        (row,) = rows_of(table)
    theirs = own_tokenizer(tmp_path, MARKED)
    expected = theirs.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    assert row[0] == expected["input_ids"]
    assert row[1] == [bool(it) for it in expected["assistant_masks"]]


def test_the_prompt_of_an_answer_is_what_generation_will_give_the_model(tmp_path):
    with chat_table(tmp_path, [CHAT[:3]]) as table:
        ((tokens, counted),) = rows_of(table)
    asked = own_tokenizer(tmp_path, CHATML).apply_chat_template(
        CHAT[:2], add_generation_prompt=True, return_dict=False
    )
    assert tokens[: counted.index(True)] == asked


@pytest.mark.parametrize(
    ("chat", "match"),
    [
        ([], r"rows\.jsonl line 1 'chat': must be a list of messages with role and content; corr"),
        ("hello", r"must be a list of messages"),
        ([{"role": "user"}], r"message 1 must have a role and a content, both text"),
        ([{"role": "user", "content": ["a"]}], r"message 1 must have a role and a content"),
        ([CHAT[1], {**CHAT[2], "tool_calls": [1]}], r"message 2 has 'tool_calls', which is not"),
        ([CHAT[1], {"role": "assistant", "content": " "}], r"message 2 \(assistant\) is empty"),
        (CHAT[:2], r"no message has the role 'assistant', so nothing can be learned"),
        (
            [CHAT[1], {"role": "assistant", "content": "a <|im_end|> b"}],
            r"message 2 has '<\|im_end\|>' in its text, which would become a special token",
        ),
    ],
)
def test_a_chat_that_cannot_be_read_is_refused_or_left_out(tmp_path, chat, match):
    with pytest.raises(InputError, match=match):
        chat_table(tmp_path, [chat, CHAT])
    assert not (tmp_path / "out").exists()
    with chat_table(tmp_path, [chat, CHAT], on_invalid="skip") as table:
        assert (table.num_rows, table.manifest.left_out) == (1, {"invalid chat": 1})


def test_a_template_that_refuses_a_chat_or_hides_its_answers_is_named(tmp_path):
    with pytest.raises(InputError, match=r"the chat template refuses it \(roles must alternate\)"):
        chat_table(tmp_path, [CHAT], ALTERNATING)
    (tmp_path / "hf" / "chat_template.jinja").write_text(FORGETFUL)
    with pytest.raises(InputError, match=r"renders message 3 differently without the messages aft"):
        chat_table(tmp_path, [CHAT])
    with chat_table(tmp_path, [CHAT[1:3]]) as table:
        ((tokens, counted),) = rows_of(table)
    theirs = own_tokenizer(tmp_path, FORGETFUL)
    assert (
        theirs.decode(np.array(tokens)[counted]) == " the cat sat;"
    )  # One token has the blank and the word


def test_a_tokenizer_without_a_template_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(InputError, match=r"has no chat template: chat messages need .*--prompt"):
        chat_table(tmp_path, [CHAT], None)
    config = tmp_path / "hf" / "tokenizer_config.json"
    named = [{"name": "tools", "template": "x"}, {"name": "default", "template": MARKED}]
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "chat_template": named}))
    with chat_table(tmp_path, [CHAT]) as table:
        assert (table.folder / "chat_template.jinja").read_text() == MARKED


def test_a_template_cannot_run_code(tmp_path):
    escape = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(InputError, match=r"the chat template refuses it"):
        chat_table(tmp_path, [CHAT], escape)


def test_a_longer_chat_is_cut_at_its_end_if_an_answer_remains(tmp_path):
    with chat_table(tmp_path, [CHAT], max_length=99) as table:
        ((tokens, counted),) = rows_of(table)
    first = counted.index(True)
    for size, match in ((first, r"nothing of the answer"), (first + 2, None)):
        job = {"columns": CHATS, "max_length": size, "truncate": True}
        out = tmp_path / f"cut-{size}"
        if match:
            with pytest.raises(InputError, match=match):
                make_table(tmp_path / "rows.jsonl", tmp_path / "hf", out, **job)
            continue
        with make_table(tmp_path / "rows.jsonl", tmp_path / "hf", out, **job) as table:
            assert rows_of(table) == [(tokens[:size], counted[:size])]


def test_chats_in_parquet_are_read(tmp_path):
    folder = write_chat_tokenizer(tmp_path / "hf")
    path = write_rows(tmp_path / "rows.parquet", [{"chat": CHAT}, {"chat": CHAT[:3]}])
    with make_table(path, folder, tmp_path / "a", columns=CHATS) as table:
        found = rows_of(table)
    with chat_table(tmp_path, [CHAT, CHAT[:3]]) as table:
        assert rows_of(table) == found
