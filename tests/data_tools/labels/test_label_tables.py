"""Labelled text becomes a table: the same rows from every format, in order, without loss."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from data_tools.cli import app
from data_tools.errors import InputError
from data_tools.labels.build_label_table import build_label_table
from data_tools.labels.label_options import LabelOptions
from data_tools.labels.label_rows import cut_longest_first
from data_tools.labels.label_table import load_labels_manifest, open_label_table
from data_tools.reading.text_sources import find_sources
from data_tools.sharding.shard_task import choose_split
from tests.data_tools.labels.labelled_files import PAIR, TEXT, make_table, write_rows
from tests.data_tools.small_texts import WORDS, tree_bytes

ROWS = [
    {
        "one": f"the cat {WORDS[number % 12]}, {number}",
        "two": "中 " + "dogs " * (number % 5) + "ran",
        "label": ("no", "yes", "maybe")[number % 3],
        "other": number,
    }
    for number in range(40)
]
FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "arrow", "csv.gz", "tsv.zst", "jsonl.zst")


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_gives_the_rows_in_order(tmp_path, tokenizer, ending):
    path = write_rows(tmp_path / f"rows.{ending}", ROWS)
    with make_table(path, tokenizer, tmp_path / "out", columns=PAIR) as table:
        rows = table.read(np.arange(table.num_rows))
        names = [table.manifest.label_names[number] for number in rows.labels.tolist()]
        texts = []
        for number in range(table.num_rows):
            tokens = rows.tokens[rows.offsets[number] : rows.offsets[number + 1]]
            parts = np.split(tokens, [rows.seconds[number]])
            texts.append(tuple(tokenizer.decode(part) for part in parts))
        assert texts == [(row["one"], row["two"]) for row in ROWS]
        assert names == [row["label"] for row in ROWS]
        assert table.manifest.label_names == ("maybe", "no", "yes")
        assert [it.rows for it in table.manifest.labels] == [13, 14, 13]
        first = {"parquet": 0, "arrow": 0, "jsonl": 1, "json": 1}.get(ending.split(".")[0], 2)
        places = table.places(np.array([0, 39]))
        assert places == [(path.name, first), (path.name, first + 39)]


def test_rows_can_be_read_in_any_order_and_number(tmp_path, tokenizer):
    path = write_rows(tmp_path / "rows.csv", ROWS)
    with make_table(path, tokenizer, tmp_path / "out", columns=PAIR) as table:
        every = table.read(np.arange(40))
        chosen = np.array([7, 3, 3, 39, 0])
        some = table.read(chosen)
    for place, number in enumerate(chosen):
        expected = every.tokens[every.offsets[number] : every.offsets[number + 1]]
        found = some.tokens[some.offsets[place] : some.offsets[place + 1]]
        assert found.tolist() == expected.tolist()
    assert some.labels.tolist() == every.labels[chosen].tolist()
    assert some.seconds.tolist() == every.seconds[chosen].tolist()


def test_several_files_are_one_table_in_the_order_of_the_command(tmp_path, tokenizer):
    files = [
        write_rows(tmp_path / "z.csv", ROWS[:10]),
        write_rows(tmp_path / "a.jsonl", ROWS[10:25]),
        write_rows(tmp_path / "m.parquet", ROWS[25:]),
    ]
    with make_table(files, tokenizer, tmp_path / "out", columns=PAIR) as table:
        labels = table.read(np.arange(40)).labels
        order = [("maybe", "no", "yes").index(row["label"]) for row in ROWS]
        assert labels.tolist() == order
        inputs = table.manifest.inputs
        assert [(it.file, it.rows) for it in inputs] == [
            ("z.csv", 10),
            ("a.jsonl", 15),
            ("m.parquet", 15),
        ]


def test_a_table_can_be_read_through_a_url(tmp_path, tokenizer):
    path = write_rows(tmp_path / "rows.csv", ROWS)
    build_label_table(
        [f"file://{path}"],
        tokenizer=tokenizer.path,
        out=tmp_path / "out",
        options=LabelOptions(columns=PAIR),
    )
    with open_label_table(tmp_path / "out" / "train") as table:
        assert table.num_rows == 40


def test_classes_are_numbers_in_the_order_of_numbers_or_of_the_option(tmp_path, tokenizer):
    rows = [{"text": f"the cat {n}", "label": n % 11} for n in range(22)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with make_table(path, tokenizer, tmp_path / "out") as table:
        assert table.manifest.label_names == tuple(map(str, range(11)))
    order = tuple(map(str, (10, *range(10))))
    with make_table(path, tokenizer, tmp_path / "other", labels=order) as table:
        assert table.manifest.label_names == order
        assert table.read(np.array([0, 10])).labels.tolist() == [1, 0]


def test_quoted_fields_of_csv_may_have_commas_quotes_and_line_ends(tmp_path, tokenizer):
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"a, ""b""\nc",x\nthe cat,y\n', encoding="utf-8")
    with make_table(path, tokenizer, tmp_path / "out") as table:
        rows = table.read(np.arange(2))
        assert tokenizer.decode(rows.tokens[: rows.offsets[1]]) == 'a, "b"\nc'
        assert [line for _, line in table.places(np.arange(2))] == [2, 4]


def test_quotes_of_tsv_are_text(tmp_path, tokenizer):
    path = tmp_path / "rows.tsv"
    path.write_text('text\tlabel\n"the cat sat\tx\n5 " long\ty\n', encoding="utf-8-sig")
    with make_table(path, tokenizer, tmp_path / "out") as table:
        rows = table.read(np.arange(2))
        assert tokenizer.decode(rows.tokens[: rows.offsets[1]]) == '"the cat sat'


def test_the_same_job_does_nothing_again_and_has_the_same_bytes_elsewhere(tmp_path, tokenizer):
    path = write_rows(tmp_path / "rows.csv", ROWS)
    job = {"columns": PAIR, "validation_percent": 30.0}
    make_table(path, tokenizer, tmp_path / "out", **job).close()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    result = build_label_table(
        [str(path)],
        tokenizer=tokenizer.path,
        out=tmp_path / "out",
        options=LabelOptions(**job),
    )
    assert result.already_done
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    make_table(path, tokenizer, tmp_path / "again", **job).close()
    assert tree_bytes(tmp_path / "again") == tree_bytes(tmp_path / "out")


def test_equal_texts_are_in_one_split_whatever_their_place(tmp_path, tokenizer):
    rows = [{"text": f"the cat {n % 50}", "label": n % 2} for n in range(300)]
    job = {"validation_percent": 30.0}
    make_table(write_rows(tmp_path / "a.csv", rows), tokenizer, tmp_path / "a", **job).close()
    turned = write_rows(tmp_path / "b.csv", rows[::-1])
    make_table(turned, tokenizer, tmp_path / "b", **job).close()
    texts: dict[str, list[set[str]]] = {}
    for out in ("a", "b"):
        for split in ("train", "validation"):
            with open_label_table(tmp_path / out / split) as table:
                read = table.read(np.arange(table.num_rows))
            parts = np.split(read.tokens, read.offsets[1:-1])
            texts.setdefault(split, []).append({tokenizer.decode(part) for part in parts})
    assert texts["train"][0] == texts["train"][1]
    assert texts["validation"][0] == texts["validation"][1]
    assert not texts["train"][0] & texts["validation"][0]
    assert 5 < len(texts["validation"][0]) < 25


def test_a_killed_job_leaves_no_table_and_the_next_one_makes_it(tmp_path, tokenizer):
    path = write_rows(tmp_path / "rows.jsonl", ROWS * 2000)
    arguments = ["label", path, "--tokenizer", tokenizer.path, "--out", tmp_path / "out"]
    arguments += ["--text", "one", "--label", "label"]
    command = [sys.executable, "-c", "from data_tools.cli import app; app()"]
    process = subprocess.Popen([*command, *map(str, arguments)])
    part = tmp_path / ".out.part" / "train"
    while not part.is_dir() and process.poll() is None:
        os.sched_yield()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert part.is_dir() and not (tmp_path / "out").exists()
    columns = {"text": "one", "label": "label"}
    make_table(path, tokenizer, tmp_path / "out", columns=columns).close()
    assert sorted(it.name for it in tmp_path.iterdir()) == ["out", "rows.jsonl"]
    assert not (tmp_path / "out" / ".lock").exists()


@given(st.lists(st.integers(1, 12), min_size=2, max_size=2), st.integers(0, 12))
def test_tokens_are_cut_from_the_longer_text_one_by_one(lengths, excess):
    expected = list(lengths)
    for _ in range(excess):  # What transformers calls `longest_first`.
        expected[0 if expected[0] > expected[1] else 1] -= 1
    assert cut_longest_first(lengths, excess) == expected


def test_longer_pairs_are_cut_with_their_special_tokens_counted(tmp_path, tokenizer, caplog):
    rows = [{"one": "cat " * 30, "two": "dogs", "label": n} for n in range(2)]
    rows += [{"one": "the cat", "two": "the dogs", "label": n} for n in range(2)]
    path = write_rows(tmp_path / "rows.csv", rows)
    job = {"columns": PAIR, "max_length": 16, "truncate": True}
    with make_table(path, tokenizer, tmp_path / "out", **job) as table:
        rows = table.read(np.arange(4))
        second = tokenizer.encode("dogs")
        assert np.diff(rows.offsets)[:2].tolist() == [13, 13]  # [CLS] and two [SEP] are added.
        assert rows.tokens[rows.seconds[0] : 13].tolist() == second.tolist()
        assert (table.manifest.longest, table.manifest.truncated) == (16, 2)
    assert "2 rows cut to the maximum length: " in caplog.text
    assert f"{path} line 2: " in caplog.text


def test_a_damaged_table_is_named(tmp_path, tokenizer):
    path = write_rows(tmp_path / "rows.csv", ROWS)
    make_table(path, tokenizer, tmp_path / "out", columns=PAIR).close()
    folder = tmp_path / "out" / "train"
    labels = folder / "labels.npy"
    content = labels.read_bytes()
    labels.write_bytes(content[:-4] + b"\x09\0\0\0")
    with open_label_table(folder) as table:
        with pytest.raises(InputError, match=r"labels\.npy is damaged: delete .*out and make it"):
            table.read(np.array([39]))
        with pytest.raises(InputError, match=r"labels\.npy is damaged"):
            table.check_content()
    labels.write_bytes(content[:-4])
    with pytest.raises(InputError, match=r"labels\.npy has \d+ bytes"):
        open_label_table(folder)
    with pytest.raises(InputError, match="is damaged: delete it and run the same command again"):
        make_table(path, tokenizer, tmp_path / "out", columns=PAIR)


def test_a_manifest_of_another_schema_is_refused(tmp_path, tokenizer, sharded):
    path = write_rows(tmp_path / "rows.csv", ROWS)
    make_table(path, tokenizer, tmp_path / "out", columns=PAIR).close()
    with pytest.raises(InputError, match="a label table has 'bigtrain-labels/1'"):
        open_label_table(sharded / "train")
    with pytest.raises(InputError, match=r"contains some: give .*out/train"):
        open_label_table(tmp_path / "out")
    manifest = tmp_path / "out" / "train" / "manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**values, "of_a_later_version": 1}))
    assert load_labels_manifest(manifest).num_rows == 40


def test_the_text_of_a_corpus_and_of_a_table_with_one_seed_are_in_the_same_split(
    tmp_path, tokenizer
):
    rows = [{"text": f"the cat {n}", "label": n % 2} for n in range(60)]
    path = write_rows(tmp_path / "rows.csv", rows)
    make_table(path, tokenizer, tmp_path / "out", columns=TEXT, validation_percent=20.0).close()
    chosen = [choose_split(row["text"].encode(), percent=20.0, seed=0) for row in rows]
    with open_label_table(tmp_path / "out" / "validation") as table:
        lines = [line - 2 for _, line in table.places(np.arange(table.num_rows))]
    assert lines == [number for number, split in enumerate(chosen) if split == "validation"]


def test_the_command_reports_classes_and_what_was_left_out(tmp_path: Path, tokenizer):
    path = write_rows(tmp_path / "rows.csv", [*ROWS, {**ROWS[0], "one": ""}])
    arguments = ["label", path, "--tokenizer", tokenizer.path, "--out", tmp_path / "out"]
    arguments += ["--text", "one", "--label", "label", "--on-invalid", "skip"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert "40 rows" in result.output
    assert "classes 'maybe' 13, 'no' 14, 'yes' 13" in result.output
    assert "rows left out: 1 empty text; rows cut: 0" in result.output
    again = CliRunner().invoke(app, list(map(str, arguments)))
    assert "already made, 40 rows" in again.output


def test_a_table_is_not_text_for_the_other_commands(tmp_path, tokenizer):
    path = write_rows(tmp_path / "rows.jsonl", ROWS)
    make_table(path, tokenizer, tmp_path / "out", columns=PAIR).close()
    (source,) = find_sources([str(tmp_path)], folder_glob="*")
    assert [file.name for file in source.files] == ["rows.jsonl"]
