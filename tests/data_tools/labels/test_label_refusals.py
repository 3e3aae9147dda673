"""Input that cannot become a table is refused in one line, and nothing is written."""

import json
from pathlib import Path

import pytest

from data_tools.errors import InputError
from data_tools.jobs.output_folder import only_writer
from data_tools.sharding.shard_task import choose_split
from tests.data_tools.labels.labelled_files import PAIR, TEXT, make_table, write_rows

GOOD = [{"text": f"the cat {n}", "label": ("no", "yes")[n % 2]} for n in range(10)]


def refuse(tmp_path: Path, tokenizer, match: str, **options) -> None:
    """Checks that a job is refused and leaves nothing."""
    before = sorted(tmp_path.rglob("*"))
    files = options.pop("files", sorted(tmp_path.glob("rows.*")))
    with pytest.raises(InputError, match=match) as caught:
        make_table(files, tokenizer, tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("text,label\nthe cat,yes\n,no\n", r"rows\.csv line 3 has no text in 'text'; correct it"),
        ("text,label\nthe cat,yes\n  ,no\n", r"line 3 has no text in 'text'"),
        ("text,label\nthe cat,yes\na,\n", r"line 3 has no label: 'label' is empty"),
        ("text,label\nthe cat\n", r"line 2 has 1 fields, and the header has 2"),
        ('text,label\n"the\ncat",yes\na,b,c\n', r"line 4 has 3 fields"),
        ('text,label\n"the cat,yes\na,b\n', r"line 2 is not valid CSV \(unexpected end of data\)"),
        ('text,label\n"the" cat,yes\n', r"line 2 is not valid CSV .*--no-quotes"),
        ("words,label\na,b\n", r"has no column 'text' \(its columns: 'words', 'label'\): correct "),
        ("text;label\na;b\n", r"has no column .*; its columns seem to be separated by ';'"),
        ("text,label,text\na,b,c\n", r"has several columns 'text': rename one, or correct --text"),
        ("", r"rows\.csv is empty: its first line must name the columns"),
        ("text,label\n", r"no row is left of 0 \(none read\)"),
        ("text,label\na,yes\nb,yes\n", r"all 2 rows have one label, 'yes': a classifier needs"),
    ],
)
def test_a_faulty_csv_is_refused_with_its_line(tmp_path, tokenizer, content, match):
    (tmp_path / "rows.csv").write_text(content, encoding="utf-8")
    refuse(tmp_path, tokenizer, match)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"text": "a"}', r"rows\.jsonl line 3 has no column 'label' \(its columns: 'text'\)"),
        ('{"text": "a", "label"', r"line 3 is not valid JSON \(.*\); correct it, or leave such"),
        ('["a", "b"]', r"line 3 is a JSON list, not an object"),
        ('{"text": 5, "label": "no"}', r"line 3 has no text in 'text', which is 5 \(int\)"),
        ('{"text": null, "label": "no"}', r"line 3 has no text in 'text'"),
        ('{"text": "a", "label": 1.0}', r"line 3 has no label: 'label' is 1\.0 \(float\)"),
        ('{"text": "a", "label": ["x"]}', r"line 3 has no label: 'label' is \['x'\] \(list\)"),
        (r'{"text": "a\ud83d", "label": "no"}', r"line 3 cannot be encoded"),
        (r'{"text": "a\udc80", "label": "no"}', r"line 3 cannot be encoded"),  # A raw byte.
    ],
)
def test_a_faulty_line_of_json_is_refused_or_left_out_by_choice(tmp_path, tokenizer, line, match):
    lines = [json.dumps(row) for row in GOOD]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n", encoding="utf-8")
    refuse(tmp_path, tokenizer, match)
    with make_table(path, tokenizer, tmp_path / "out", on_invalid="skip") as table:
        assert table.num_rows == 10
        assert sum(table.manifest.left_out.values()) == 1
        assert (table.manifest.inputs[0].rows, table.manifest.inputs[0].left_out) == (11, 1)


def test_labels_outside_the_set_are_refused_and_so_are_empty_classes(tmp_path, tokenizer):
    path = write_rows(tmp_path / "rows.csv", GOOD)
    named = r"rows\.csv line 3 has the label 'yes', which is not one of --labels"
    refuse(tmp_path, tokenizer, named, labels=("no", "maybe"))
    empty = r"no row has the label 'maybe' of --labels \(rows have 5 × 'no', 5 × 'yes'\)"
    refuse(tmp_path, tokenizer, empty, labels=("no", "yes", "maybe"))
    with pytest.raises(InputError, match="no row has the label 'maybe'"):
        make_table(path, tokenizer, tmp_path / "out", labels=("no", "maybe"), on_invalid="skip")


def test_longer_rows_are_refused_with_their_number_and_left_out_or_cut_by_choice(
    tmp_path, tokenizer, caplog
):
    rows = [*GOOD, {"text": "dogs " * 50, "label": "no"}, {"text": "cats " * 50, "label": "yes"}]
    path = write_rows(tmp_path / "rows.csv", rows)
    named = (
        r"2 of 12 rows are longer than --max-length 20 tokens \(.*rows\.csv line 12: \d+ tokens, "
        r".*line 13: \d+ tokens\): raise it, cut them with --truncate, or leave them out"
    )
    refuse(tmp_path, tokenizer, named, max_length=20)
    with make_table(path, tokenizer, tmp_path / "left", max_length=20, on_invalid="skip") as table:
        assert (table.num_rows, table.manifest.left_out) == (10, {"too long": 2})
    assert "2 rows left out, too long: " in caplog.text
    with make_table(path, tokenizer, tmp_path / "cut", max_length=20, truncate=True) as table:
        assert (table.num_rows, table.manifest.truncated) == (12, 2)
        assert table.manifest.longest == 20


def test_a_split_without_rows_or_without_a_class_is_refused(tmp_path, tokenizer):
    write_rows(tmp_path / "rows.csv", GOOD)
    none = r"none of 10 rows would be in the validation split: raise --validation-percent from 0\.1"
    refuse(tmp_path, tokenizer, none, validation_percent=0.1)
    rare = [{"text": f"the cat {n}", "label": "no"} for n in range(20)]
    write_rows(tmp_path / "rows.csv", [*rare, {"text": "the dogs 3", "label": "rare"}])
    seed = next(  # At this seed the only row of the class is in the validation split.
        seed
        for seed in range(9)
        if choose_split(b"the dogs 3", percent=40.0, seed=seed) == "validation"
    )
    found = r"all rows with the label 'rare' would be in the validation split"
    refuse(tmp_path, tokenizer, found, validation_percent=40.0, seed=seed)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"columns": {"text": "text"}}, r"do not make rows \(given: --text\): give --text and"),
        ({"columns": {**TEXT, "prompt": "p"}}, r"do not make rows"),
        ({"columns": {}}, r"given: none"),
        ({"columns": {"text": "text", "label": "text"}}, r"two options name the same column"),
        ({"labels": ("a", "a")}, r"--labels names 'a' twice"),
        ({"labels": ("a",)}, r"at least two classes"),
        ({"labels": ("a", "")}, r"--labels has an empty name"),
        ({"max_length": 2}, r"--max-length 2 must be at least 8"),
        ({"truncate": True}, r"--truncate needs --max-length"),
        ({"validation_percent": 100.0}, r"must be from 0 to below 100"),
        ({"columns": PAIR}, r"has no column 'one'"),
        ({"columns": {"messages": "text"}}, r"is a SentencePiece model, which has no chat templ"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, tokenizer, options, match):
    write_rows(tmp_path / "rows.csv", GOOD)
    refuse(tmp_path, tokenizer, match, **options)


def test_files_of_other_kinds_and_absent_files_are_refused(tmp_path, tokenizer):
    write_rows(tmp_path / "rows.csv", GOOD)
    for name, content, match in (
        ("rows.txt", b"hello", r"rows\.txt is of a kind that is not read here: give CSV"),
        ("rows.zip", b"PK\x03\x04\0\0\0\0", r"of a kind that is not read here"),
        ("utf16.csv", "text,label\na,b\n".encode("utf-16"), r"is UTF-16, not CSV in UTF-8"),
        ("utf16.jsonl", "{}".encode("utf-16"), r"is UTF-16, not JSON in UTF-8"),
        ("latin.csv", b"text,label\na,b\ncaf\xe9,b\n", r"latin\.csv line 3 is not UTF-8 \(byte 0x"),
        ("cut.parquet", b"PAR1", r"not a complete Parquet file"),
        ("cut.csv.gz", b"\x1f\x8b", r"truncated or damaged"),
        ("q.tsv", b'text\tlabel\n"a"\tb\n', r"line 2: 'text' begins and ends with a double quote"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        refuse(tmp_path, tokenizer, match, files=[path])
        path.unlink()
    refuse(tmp_path, tokenizer, r"absent\.csv is not a file that exists", files=["absent.csv"])
    refuse(tmp_path, tokenizer, r"is a folder: give files, or a quoted glob", files=[tmp_path])
    refuse(tmp_path, tokenizer, r"matches no file", files=[f"{tmp_path}/*.parquet"])


def test_another_job_in_the_folder_is_refused_and_unchanged(tmp_path, tokenizer):
    path = write_rows(tmp_path / "rows.csv", GOOD)
    make_table(path, tokenizer, tmp_path / "out").close()
    refuse(tmp_path, tokenizer, r"made with other max_length \(none → 99\)", max_length=99)
    refuse(tmp_path, tokenizer, r"other validation_percent \(0\.0 → 20", validation_percent=20.0)
    write_rows(path, GOOD[:8])
    refuse(tmp_path, tokenizer, r"made with other inputs")
    write_rows(path, GOOD)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already and is not a label table"):
        make_table(path, tokenizer, tmp_path / "mine")


def test_two_processes_do_not_write_one_table(tmp_path, tokenizer):
    path = write_rows(tmp_path / "rows.csv", GOOD)
    with (
        only_writer(tmp_path / ".out.part"),
        pytest.raises(InputError, match="another process is writing"),
    ):
        make_table(path, tokenizer, tmp_path / "out")
    make_table(path, tokenizer, tmp_path / "out").close()
