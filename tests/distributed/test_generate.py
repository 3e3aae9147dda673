"""Texts that `bigtrain generate` makes of an exported model are those of transformers."""

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.generation_calls import (
    TEMPLATE,
    VARIED,
    call,
    changed_copy,
    continue_texts,
    stream_texts,
    transformers_texts,
)
from tests.distributed.test_export import export
from tests.ranks import RankError, run_ranks
from tests.runs import LLAMA, tiny_config, train_rank

TEXTS = ["abc", "abc def ghi jkl mno", "a", ""]


@pytest.fixture(scope="module", params=[{}, LLAMA], ids=["gpt2", "llama"])
def exported(request: Any, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a short run; the model reads 64 tokens."""
    folder = tmp_path_factory.mktemp("runs")
    model = {**request.param, **VARIED, "max_sequence_length": 64}
    config = tiny_config(corpus, folder, model=model, train={"steps": 12})
    run_ranks(train_rank, 1, config)
    return run_ranks(export, 1, config.run_dir, folder / "exported")[0].folder


def made(folder: Path, *calls: Any) -> list[list[dict[str, Any]]]:
    return run_ranks(continue_texts, 1, folder, *calls)[0]


def texts_of(found: list[dict[str, Any]]) -> list[str]:
    return [each["text"] for each in found]


BATCHED: list[dict[str, Any]] = [
    {"max_new_tokens": 12},
    {},
    {"max_new_tokens": 12, "num_beams": 3, "num_return": 2},
    {"max_new_tokens": 8, "sample": True, "temperature": 1.5, "num_return": 2},
    {"max_new_tokens": 12, "repetition_penalty": 1.5, "stop": ("a",)},
]


def test_results_of_a_batch_are_those_of_single_calls(exported: Path) -> None:
    calls = [(texts, each, {}) for each in BATCHED for texts in (TEXTS, *([t] for t in TEXTS))]
    found = made(exported, *calls)
    for at in range(len(BATCHED)):
        batch, *single = found[at * 5 : at * 5 + 5]
        keep = ("text", "new_tokens", "finish", "number", "prompt_tokens")
        joined = [each for one in single for each in one]
        assert [[e[k] for k in keep] for e in batch] == [[e[k] for k in keep] for e in joined]
        assert any(text for text in texts_of(batch))
    lengths = {each["prompt_tokens"] for each in found[0]}
    assert len(lengths) == 3  # The rows are padded.
    assert all(each["finish"] == "stop" for each in found[20] if len(each["text"]) < 5)
    assert not any("a" in text for text in texts_of(found[20]))


def test_every_decoding_gives_the_texts_of_transformers(exported: Path) -> None:
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"do_sample": False}),
        ({"num_beams": 4, "num_return": 4}, {"num_beams": 4, "num_return_sequences": 4}),
        (
            {"num_beams": 3, "early_stopping": True, "length_penalty": 2.0},
            {"num_beams": 3, "early_stopping": True, "length_penalty": 2.0},
        ),
        (
            {"sample": True, "temperature": 2.0, "top_k": 7, "seed": 3, "num_return": 3},
            {"do_sample": True, "temperature": 2.0, "top_k": 7, "num_return_sequences": 3},
        ),
        (
            {"sample": True, "top_p": 0.5, "seed": 3},
            {"do_sample": True, "top_p": 0.5, "top_k": 0},
        ),
        ({"sample": True, "seed": 3}, {"do_sample": True, "top_k": 0}),
        ({"repetition_penalty": 3.0}, {"repetition_penalty": 3.0}),
        ({"no_repeat_ngram": 1}, {"no_repeat_ngram_size": 1}),
    ]
    length = {"max_new_tokens": 12}
    ours = made(exported, *((["abc"], ours | length, {}) for ours, _ in pairs))
    theirs = run_ranks(transformers_texts, 1, exported, "abc", *(t | length for _, t in pairs))[0]
    assert [texts_of(each) for each in ours] == theirs
    assert len({tuple(each) for each in theirs}) >= 6
    scores = [each["score"] for each in ours[1]]
    assert scores == sorted(scores, reverse=True) and scores[0] < 0


def test_a_text_ends_at_the_eos_at_the_length_or_before_a_stop_string(
    exported: Path, tmp_path: Path
) -> None:
    [[whole]] = made(exported, (["abc"], {"max_new_tokens": 12}, {}))
    assert (whole["finish"], whole["new_tokens"]) == ("length", 12)
    stop = whole["text"][5:7]
    [[cut], [rest]] = made(
        exported,
        (["abc"], {"max_new_tokens": 12, "stop": ("\u2603", stop)}, {}),
        (["abc"], {"max_new_tokens": 12, "stop": ("\u2603",)}, {}),
    )
    assert cut["text"] == whole["text"][: whole["text"].find(stop)]
    assert cut["finish"] == "stop" and cut["new_tokens"] < 12
    assert rest == whole
    ids = run_ranks(greedy_ids, 1, exported, "abc")[0]
    ends = changed_copy(
        exported,
        tmp_path / "ends",
        "generation_config.json",
        lambda values: {**values, "eos_token_id": [0, ids[4]], "temperature": 0.1, "top_k": 3},
    )
    [[ended]] = made(ends, (["abc"], {"max_new_tokens": 12}, {}))
    first = ids.index(ids[4])
    assert (ended["finish"], ended["new_tokens"]) == ("eos", first)
    assert whole["text"].startswith(ended["text"])


def greedy_ids(folder: Path, text: str) -> list[int]:
    """The most likely next ids; for ``run_ranks``."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asked = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    rows = AutoModelForCausalLM.from_pretrained(folder).generate(**asked, max_new_tokens=12)
    return rows[0, asked["input_ids"].shape[1] :].tolist()


def test_streamed_texts_are_whole_and_do_not_interleave(exported: Path) -> None:
    for decoding in ({"max_new_tokens": 12}, {"max_new_tokens": 12, "stop": ("a",)}):
        parts, texts = run_ranks(stream_texts, 1, exported, TEXTS, decoding)[0]
        expected = texts_of(made(exported, (TEXTS, decoding, {}))[0])
        assert texts == expected
        pairs = zip(TEXTS, expected, strict=True)
        assert "".join(parts) == "".join(f"<{prompt}>{text}" for prompt, text in pairs)
    assert len(parts) > len(TEXTS)


def test_the_command_writes_text_json_lines_and_a_file(exported: Path, tmp_path: Path) -> None:
    import json

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("abc\n\na\n")
    out = tmp_path / "out.jsonl"
    short = ["--max-new-tokens", "5"]
    found = run_ranks(
        call,
        1,
        ["generate", exported, "abc", *short],
        ["generate", exported, "--prompts", prompts, *short, "--json"],
        ["generate", exported, "--prompts", prompts, *short, "--out", out],
        ["generate", exported, "--prompts", prompts, *short, "--out", out],
        ["generate", exported, "--prompts", prompts, *short, "--stream"],
    )[0]
    assert [code for code, _, _ in found] == [0, 0, 0, 2, 0]
    lines = [json.loads(line) for line in found[1][1].splitlines()]
    assert [line["prompt"] for line in lines] == ["abc", "a"]
    assert found[0][1] == f"abc{lines[0]['text']}\n"
    assert out.read_text() == found[1][1] and found[2][1] == ""
    assert found[2][2].endswith("out.jsonl: 2 results\n")
    assert "prompts.txt: 1 blank lines are not prompts" in found[1][2]
    assert "exists already; remove it" in found[3][2]
    headings = [f"=== {prompts} line {number}\n" for number in (1, 3)]
    assert found[4][1] == "".join(
        f"{heading}{line['prompt']}{line['text']}\n"
        for heading, line in zip(headings, lines, strict=True)
    )


def test_prompts_longer_than_the_model_are_named(exported: Path) -> None:
    long = "abc " * 70
    found = run_ranks(
        call,
        1,
        ["generate", exported, "abc", long, long],
        ["generate", exported, "a", "--max-new-tokens", "64"],
    )[0]
    assert found[0][0] == found[1][0] == 2
    assert "prompt 2 has " in found[0][2]
    assert "the model reads at most 64 tokens: shorten it (and 1 more prompts)" in found[0][2]
    assert "the prompt has 1 tokens and 64 are to be added" in found[1][2]
    assert "lower --max-new-tokens to 63" in found[1][2]
    assert all(err.count("\n") == 1 and not out for _, out, err in found)


def test_a_chat_keeps_the_conversation(exported: Path, tmp_path: Path) -> None:
    chats = changed_copy(
        exported,
        tmp_path / "chats",
        "tokenizer_config.json",
        lambda values: {**values, "chat_template": TEMPLATE},
    )
    options = ["--chat", "--max-new-tokens", "4"]
    [(code, out, _), beams] = run_ranks(
        call,
        1,
        ["generate", chats, *options],
        ["generate", chats, *options, "--num-beams", "2"],
        lines="abc\n\ndef\n",
    )[0]
    first = "user: abc\nassistant: "
    answers = out[:-1].split("\n")
    [[one]] = made(exported, ([first], {"max_new_tokens": 4}, {}))
    second = f"{first}{one['text']}\nuser: def\nassistant: "
    [[two]] = made(exported, ([second], {"max_new_tokens": 4}, {}))
    assert (code, out) == (0, f"{one['text']}\n{two['text']}\n"), answers
    assert beams[0] == 0 and len(beams[1]) > 2
    [(code, out, err), (_, _, template)] = run_ranks(
        call,
        1,
        ["generate", chats, "--chat", "--max-new-tokens", "20"],
        ["generate", exported, "--chat"],
        lines="abc\n" * 5,
    )[0]
    assert code == 2 and out and "the conversation has" in err and "at most 64 tokens" in err
    assert "its tokenizer has no chat template" in template and template.count("\n") == 1


def test_a_folder_that_is_no_gpt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RankError, match=r"no config\.json; give a folder made by bigtrain"):
        run_ranks(continue_texts, 1, tmp_path)
