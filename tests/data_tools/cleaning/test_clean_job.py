"""The cleaning job counts every document, keeps the order, and always gives the same bytes."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_tools.cleaning.clean_corpus import clean_corpus
from data_tools.cleaning.document_counts import Counts, Tally, add_counts
from data_tools.errors import InputError
from data_tools.jobs.output_folder import only_writer
from tests.data_tools.cleaning.documents import (
    CHINESE_NEWS,
    ENGLISH_STORY,
    change_words,
    make_config,
    random_prose,
    read_parts,
    write_json_lines,
)
from tests.data_tools.small_texts import tree_bytes

TINY = {"task_mb": 0.004, "id_field": "id"}


@pytest.fixture(scope="session")
def web(tmp_path_factory) -> Path:
    """Three files of several tasks each, with a document for every outcome."""
    folder = tmp_path_factory.mktemp("web") / "pages"
    rng = random.Random(1)
    good = [random_prose(rng, words=200) for _ in range(24)]
    records = [{"text": text, "id": f"good{n}"} for n, text in enumerate(good)]
    write_json_lines(
        folder / "a.jsonl",
        [
            *records[:8],
            "{broken",
            {"text": ""},
            {"title": "no text"},
            {"text": "Too short."},
            {"text": "menu\n" * 60},
        ],
    )
    write_json_lines(
        folder / "b.jsonl",
        [
            *records[8:16],
            {"text": good[2].replace(" ", "  "), "id": "exact copy"},
            {"text": change_words(good[3], rng, count=3), "id": "near copy"},
            {"text": CHINESE_NEWS.replace("\n", "\r\n"), "id": "news"},
        ],
    )
    write_json_lines(
        folder / "c.jsonl",
        [
            {"text": good[9], "id": "another exact copy"},
            *records[16:],
            {"text": ENGLISH_STORY + "Ask me@example.org.\n", "id": "story"},
            {"text": ENGLISH_STORY.replace("lighthouse", "windmill"), "id": "story again"},
        ],
    )
    (folder / "bytes.txt").write_bytes(b"\xff\xfe")
    return folder


@pytest.fixture(scope="session")
def cleaned(web, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cleaned") / "out"
    clean_corpus(make_config(web, out, **TINY))
    return out


def report_of(out: Path) -> dict:
    return json.loads((out / "report.json").read_bytes())


def test_kept_documents_stay_in_order_with_id_and_source(cleaned):
    records = read_parts(cleaned)
    good = [f"good{n}" for n in range(24)]
    assert [record["id"] for record in records] == [*good[:16], "news", *good[16:], "story"]
    assert records[0]["source"] == "a.jsonl line 1"
    assert set(records[0]) == {"text", "id", "source"}
    assert next(r for r in records if r["id"] == "news")["text"] == CHINESE_NEWS
    assert len(list(cleaned.glob("part-*.jsonl.zst"))) > 4


def test_the_report_accounts_for_every_document(cleaned):
    report = report_of(cleaned)
    documents, dropped = report["documents"], report["dropped"]
    assert {rule: tally["documents"] for rule, tally in dropped.items()} == {
        "length.min_words": 1,
        "gopher_repetition.duplicate_lines": 1,
        "exact_duplicates": 2,
        "near_duplicates": 2,
    }
    assert {reason: tally["documents"] for reason, tally in report["skipped"].items()} == {
        "empty": 1,
        "invalid JSON": 1,
        "no text field": 1,
        "not UTF-8": 1,
    }
    assert documents == {"read": 36, "kept": 26, "dropped": 6, "skipped": 4}
    assert documents["kept"] == len(read_parts(cleaned))
    assert sum(part["documents"] for part in report["parts"]) == documents["kept"]
    assert report["changed"]["unicode.line_ends"]["documents"] == 1


def test_each_rule_has_its_first_document_as_an_example(cleaned):
    dropped = report_of(cleaned)["dropped"]
    assert dropped["exact_duplicates"]["example"].startswith("b.jsonl ")
    assert dropped["near_duplicates"]["example"].startswith("b.jsonl ")
    assert dropped["length.min_words"]["example"].startswith("a.jsonl ")
    assert "a.jsonl" in report_of(cleaned)["skipped"]["invalid JSON"]["example"]


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_number_of_workers_does_not_change_a_byte(web, cleaned, tmp_path, workers):
    clean_corpus(make_config(web, tmp_path / "out", workers=workers, **TINY))
    assert tree_bytes(tmp_path / "out") == tree_bytes(cleaned)


def test_the_size_of_tasks_changes_only_the_parts(web, cleaned, tmp_path):
    clean_corpus(make_config(web, tmp_path / "out", id_field="id"))
    whole, parts = read_parts(tmp_path / "out"), read_parts(cleaned)
    assert [r["text"] for r in whole] == [r["text"] for r in parts]
    counts = ("documents", "characters_read")
    assert all(report_of(tmp_path / "out")[key] == report_of(cleaned)[key] for key in counts)


def kill_at_rename(number: int, web: Path, out: Path) -> None:
    seen = 0

    def watch(event: str, _: tuple) -> None:
        nonlocal seen
        if event == "os.rename":
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    clean_corpus(make_config(web, out, **TINY))


def renames_of(cleaned: Path) -> int:
    """The renames of a job: job, duplicates, report; candidates, tables, markers, part per task."""
    tasks = len(list((cleaned / ".tasks").glob("0*.json")))
    return 1 + tasks * (1 + 3 + 2) + 1 + len(list(cleaned.glob("part-*"))) + 1


@pytest.mark.parametrize("rename", [1, 2, 5, 6, 7, 30, -20, -19, -4, -3, -2, -1])
def test_a_job_killed_before_a_rename_resumes_to_the_same_bytes(web, cleaned, tmp_path, rename):
    out = tmp_path / "out"
    if rename < 0:
        rename += renames_of(cleaned) + 1
    process = multiprocessing.get_context("fork").Process(
        target=kill_at_rename, args=(rename, web, out)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (out / "report.json").exists()
    assert not clean_corpus(make_config(web, out, **TINY)).already_done
    assert tree_bytes(out) == tree_bytes(cleaned)


def test_a_killed_job_with_workers_resumes_to_the_same_bytes(web, cleaned, tmp_path):
    out, script = tmp_path / "out", tmp_path / "job.py"
    script.write_text(
        "from pathlib import Path\n"
        "from data_tools.cleaning.clean_corpus import clean_corpus\n"
        "from tests.data_tools.cleaning.documents import make_config\n"
        "if __name__ == '__main__':\n"
        f"    clean_corpus(make_config(Path({str(web)!r}), Path({str(out)!r}),\n"
        f"                 workers=2, **{TINY!r}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen([sys.executable, str(script)], env=environment)
    while not list((out / ".tasks").glob("*.scan.json")):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (out / "report.json").exists()
    clean_corpus(make_config(web, out, **TINY))
    assert tree_bytes(out) == tree_bytes(cleaned)


def test_a_finished_job_is_not_changed_and_reported_as_done(web, cleaned, tmp_path):
    out = shutil.copytree(cleaned, tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.name != ".lock"}
    result = clean_corpus(make_config(web, out, workers=3, **TINY))
    assert result.already_done
    assert result.counts.kept == 26
    assert times == {path: path.stat().st_mtime_ns for path in times}


@pytest.mark.parametrize("lost", ["part-000002.jsonl.zst", "report.json", ".tasks/000001.json"])
def test_lost_files_are_made_again(web, cleaned, tmp_path, lost):
    out = shutil.copytree(cleaned, tmp_path / "out")
    (out / lost).unlink()
    assert not clean_corpus(make_config(web, out, **TINY)).already_done
    assert tree_bytes(out) == tree_bytes(cleaned)


def test_another_job_in_the_same_folder_is_refused(web, cleaned, tmp_path):
    out = shutil.copytree(cleaned, tmp_path / "out")
    with pytest.raises(InputError, match=r"other length\.min_words \(\d+ → 9\): nothing"):
        clean_corpus(make_config(web, out, length={"min_words": 9}, **TINY))
    changed = shutil.copytree(web, tmp_path / "pages")
    (changed / "a.jsonl").write_text('{"text": "new"}\n')
    with pytest.raises(InputError, match=r"with other text .* with exclude; choose another out"):
        clean_corpus(make_config(changed, out, **TINY))
    assert tree_bytes(out) == tree_bytes(cleaned)


def test_two_writers_an_unknown_folder_and_input_in_the_output_are_refused(web, tmp_path):
    out = tmp_path / "out"
    with only_writer(out), pytest.raises(InputError, match="another process is writing"):
        clean_corpus(make_config(web, out, **TINY))
    (out / "report.json").write_text("{}")
    with pytest.raises(InputError, match="from an unknown job"):
        clean_corpus(make_config(web, out, **TINY))
    with pytest.raises(InputError, match="is an input inside out="):
        clean_corpus(make_config(web, web, **TINY))


def test_an_invalid_line_may_stop_the_job(web, tmp_path):
    with pytest.raises(InputError, match=r"a\.jsonl line 9"):
        clean_corpus(make_config(web, tmp_path / "out", on_invalid="stop", **TINY))
    assert not list((tmp_path / "out").glob("part-*"))


def test_a_stopped_job_resumes_by_the_remedy_in_the_message(web, cleaned, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="leave such documents out with on_invalid=skip"):
        clean_corpus(make_config(web, out, on_invalid="stop", **TINY))
    clean_corpus(make_config(web, out, on_invalid="skip", **TINY))
    assert tree_bytes(out) == tree_bytes(cleaned)
    with pytest.raises(InputError, match=r"job with other on_invalid \(skip → stop\)"):
        clean_corpus(make_config(web, out, on_invalid="stop", **TINY))


def test_redactions_and_dropped_lines_are_in_text_and_report(web, tmp_path):
    sections = {"redact": {"email": True}, "c4_lines": {"enabled": True, "min_words": None}}
    clean_corpus(make_config(web, tmp_path / "out", **sections, **TINY))
    story = next(r for r in read_parts(tmp_path / "out") if r["id"] == "story")
    assert "Ask |||EMAIL_ADDRESS|||." in story["text"]
    changed = report_of(tmp_path / "out")["changed"]
    assert changed["redact.email"]["changes"] == 1
    assert changed["redact.email"]["example"].startswith("c.jsonl ")
    assert changed["c4_lines.terminal_punctuation"]["changes"] >= 60


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("near", [True, False])
def test_each_search_for_duplicates_can_be_switched_off(web, tmp_path, exact, near):
    sections = {"exact_duplicates": {"enabled": exact}, "near_duplicates": {"enabled": near}}
    clean_corpus(make_config(web, tmp_path / "out", **sections, **TINY))
    ids = [record["id"] for record in read_parts(tmp_path / "out")]
    assert ("exact copy" in ids) == (not exact and not near)
    assert ("near copy" in ids) == (not near)
    dropped = report_of(tmp_path / "out")["dropped"]
    assert ("exact_duplicates" in dropped, "near_duplicates" in dropped) == (exact, near)


def test_only_parts_report_and_markers_remain(cleaned):
    names = {path.name for path in cleaned.rglob("*") if path.is_file()}
    endings = {name.split(".", 1)[1] for name in names}
    assert endings == {"lock", "json", "jsonl.zst"}
    assert not [name for name in names if name.endswith("scan.json")]


def test_cleaning_cleaned_text_changes_nothing(cleaned, tmp_path):
    parts = make_config(cleaned, tmp_path / "out", glob="part-*", **TINY)
    clean_corpus(parts)
    first, second = read_parts(cleaned), read_parts(tmp_path / "out")
    assert [(r["id"], r["text"]) for r in first] == [(r["id"], r["text"]) for r in second]


def test_without_kept_documents_there_is_a_report_and_no_parts(tmp_path):
    pages = write_json_lines(tmp_path / "pages.jsonl", [{"text": "Short."}] * 3)
    result = clean_corpus(make_config(pages, tmp_path / "out"))
    assert (result.counts.kept, result.parts) == (0, 0)
    assert report_of(tmp_path / "out")["dropped"]["length.min_words"]["documents"] == 3


@pytest.mark.parametrize("ending", ["candidates", "digests", "bands", "values", "scan.json"])
def test_a_scan_with_lost_files_is_made_again(web, cleaned, tmp_path, monkeypatch, ending):
    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("data_tools.cleaning.clean_corpus.find_duplicates", fail)
    with pytest.raises(OSError, match="no space"):
        clean_corpus(make_config(web, tmp_path / "out", **TINY))
    monkeypatch.undo()
    left = tmp_path / "out" / ".tasks" / f"000001.{ending}"
    assert left.is_file()
    left.write_bytes(b"") if ending in ("digests", "bands", "values") else left.unlink()
    clean_corpus(make_config(web, tmp_path / "out", **TINY))
    assert tree_bytes(tmp_path / "out") == tree_bytes(cleaned)


def test_counts_add_up_and_keep_the_first_example():
    one, other = Counts(), Counts()
    for counts, name in ((one, "a"), (other, "b")):
        for line in (1, 2):
            counts.read("text", {"unicode.nfc": 1, "redact.email": 3}, f"{name} line {line}")
            counts.drop("empty", f"{name} line {line}")
        counts.skip("not UTF-8", f"{name} line 3")
        counts.keep(5, 100)
    total = add_counts([one, other])
    assert (total.documents, total.characters, total.kept, total.bytes_kept) == (6, 16, 10, 200)
    assert (total.num_dropped, total.num_skipped) == (4, 2)
    assert total.dropped == {"empty": Tally(documents=4, example="a line 1")}
    assert total.changed["redact.email"] == Tally(documents=4, changes=12, example="a line 1")
    assert one.dropped["empty"].documents == 2
