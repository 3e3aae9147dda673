"""A tokenizer job reads every kind of text, reports problems, and recognizes finished work."""

import gzip
import json
import logging

import pytest

from data_tools.errors import InputError
from data_tools.reading.documents import ReadOptions
from data_tools.tokenizer.build_tokenizer import build_tokenizer

STORIES = [f"story {n}: the cat sat on a mat, and saw {n * 7} dogs\n" for n in range(80)]


def write_lines(path, field="text"):
    content = "".join(json.dumps({field: story}) + "\n" for story in STORIES).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_train_the_same_model_as_text_files(tmp_path, name):
    (tmp_path / "a.txt").write_text("".join(STORIES))
    lines = write_lines(tmp_path / name, field="body")
    plain = build_tokenizer([str(tmp_path / "a.txt")], out=tmp_path / "1.model", vocab_size=380)
    options = ReadOptions(text_field="body")
    result = build_tokenizer([lines], out=tmp_path / "2.model", vocab_size=380, options=options)
    assert result.sample_bytes == plain.sample_bytes
    text = "the cat saw dogs"
    assert result.tokenizer.decode(result.tokenizer.encode(text)) == text
    assert len(result.tokenizer.encode(text)) <= len(plain.tokenizer.encode(text)) + 2


def test_equal_texts_in_other_files_give_the_same_model(tmp_path):
    first = build_tokenizer(
        [write_lines(tmp_path / "a.jsonl")], out=tmp_path / "1.model", vocab_size=380
    )
    second = build_tokenizer(
        [write_lines(tmp_path / "b.jsonl.gz")], out=tmp_path / "2.model", vocab_size=380
    )
    assert first.tokenizer.sha256 == second.tokenizer.sha256


def test_repeating_a_job_does_nothing_and_another_job_is_refused(tmp_path):
    lines, out = write_lines(tmp_path / "a.jsonl"), tmp_path / "t.model"
    assert not build_tokenizer([lines], out=out, vocab_size=380).already_done
    assert build_tokenizer([lines], out=out, vocab_size=380).already_done
    with pytest.raises(InputError, match=r"made with other vocab_size \(380 → 390\):"):
        build_tokenizer([lines], out=out, vocab_size=390)


def test_a_missing_field_is_named_with_its_line(tmp_path):
    with pytest.raises(InputError, match=r"a\.jsonl.*1"):
        build_tokenizer(
            [write_lines(tmp_path / "a.jsonl", field="body")],
            out=tmp_path / "t.model",
            vocab_size=380,
        )
    assert not (tmp_path / "t.model").exists()


def test_too_little_text_for_a_large_vocabulary_is_reported(tmp_path, caplog):
    long, lines = tmp_path / "long.txt", write_lines(tmp_path / "a.jsonl")
    with caplog.at_level(logging.WARNING):
        build_tokenizer([lines], out=tmp_path / "1.model", vocab_size=380)
    assert "is little for a vocabulary of 380" in caplog.text
    assert "lower --vocab-size" not in caplog.text  # A smaller vocabulary would not be useful.
    caplog.clear()
    long.write_text("".join(STORIES) * 40)
    with caplog.at_level(logging.WARNING):
        build_tokenizer([str(long)], out=tmp_path / "2.model", vocab_size=380)
    assert not caplog.text
