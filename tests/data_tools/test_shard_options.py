"""The options of a sharding job."""

import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
import webdataset
import zstandard
from webdataset.writer import TarWriter

from data_tools.corpus import open_corpus
from data_tools.errors import InputError
from data_tools.manifest import load_manifest
from data_tools.reading.documents import ReadOptions
from data_tools.reading.standard_input import standard_input
from data_tools.reading.text_sources import find_sources
from data_tools.sentence_splitter import split_sentences
from data_tools.sharding.plan_tasks import plan_tasks
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from data_tools.sharding.shard_task import TokenDocument, shuffled
from data_tools.tokenizer import train_tokenizer
from data_tools.tokenizer.tokenizer_interface import move_spaces
from tests.data_tools.small_texts import tree_bytes, write_texts

TINY = {"task_bytes": 3000, "pack_tokens": 100}
SPLIT = {"validation_percent": 20}


def shard(inputs, tokenizer, out: Path, *, workers: int = 1, **options):
    chosen = ShardOptions(**{**TINY, **options})
    path = tokenizer.path
    return shard_corpus([str(inputs)], tokenizer=path, out=out, options=chosen, workers=workers)


def decoded(folder: Path, tokenizer) -> list[str]:
    with open_corpus(folder) as corpus:
        return [tokenizer.decode(ids) for ids in corpus.documents()]


@pytest.fixture(scope="module")
def lines(tmp_path_factory, texts) -> Path:
    """The small texts in a JSON Lines file."""
    path = tmp_path_factory.mktemp("lines") / "web.jsonl"
    documents = [file.read_text() for file in sorted(texts.iterdir())]
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in documents))
    return path


BODY = ReadOptions(text_field="body")


def test_json_lines_become_the_same_documents_as_text_files(texts, lines, tokenizer, tmp_path):
    result = shard(lines, tokenizer, tmp_path / "out", reading=BODY, workers=2)
    assert result.documents == 60
    assert len(list((tmp_path / "out" / "train").glob("*.tar"))) > 2  # The file was split.
    written = [file.read_text() for file in sorted(texts.iterdir())]
    assert decoded(tmp_path / "out" / "train", tokenizer) == written


def test_a_url_gives_the_same_bytes_as_a_path(lines, tokenizer, tmp_path):
    shard(f"{lines.parent}/*.jsonl", tokenizer, tmp_path / "a", reading=BODY)
    shard(f"file://{lines.parent}/*.jsonl", tokenizer, tmp_path / "b", reading=BODY)
    assert tree_bytes(tmp_path / "a" / "train") == tree_bytes(tmp_path / "b" / "train")


def run_command(arguments, *, preparation="", **options):
    code = f"import sys, resource\n{preparation}\nfrom bigtrain.cli import main\nmain()"
    command = [sys.executable, "-c", code, "data", *map(str, arguments)]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.run(command, capture_output=True, env=environment, **options)


def test_standard_input_gives_a_corpus_and_leaves_no_temporary_files(lines, tokenizer, tmp_path):
    out = tmp_path / "out"
    command = ["shard", "-", "--tokenizer", tokenizer.path, "--out", out, "--text-field", "body"]
    ran = run_command(command, input=lines.read_bytes(), check=True)
    assert b"60 documents" in ran.stdout
    assert load_manifest(out / "train").inputs[0].source == "standard input"
    assert sorted(path.name for path in (out / "tasks").iterdir()) == [
        "000000.json",
        "job.json",
        "tokenizer.model",
    ]
    before = tree_bytes(out)
    assert b"already done" in run_command(command, input=lines.read_bytes(), check=True).stdout
    other = run_command(command, input=b'{"body": "other"}\n')
    assert other.returncode == 2
    assert b"belongs to a job with other text (" in other.stderr
    assert tree_bytes(out) == before


@pytest.mark.parametrize(
    ("pack", "tool"), [(gzip.compress, "gzip"), (zstandard.compress, "zstd")], ids=["gzip", "zstd"]
)
def test_compressed_standard_input_is_refused_with_the_tool(
    lines, tokenizer, tmp_path, monkeypatch, pack, tool
):
    stream = io.TextIOWrapper(io.BytesIO(pack(lines.read_bytes())))
    monkeypatch.setattr("sys.stdin", stream)
    with pytest.raises(InputError, match=rf"is compressed: decompress it first \({tool} -dc FILE"):
        shard("-", tokenizer, tmp_path / "out", reading=BODY)
    assert not list((tmp_path / "out" / "tasks").iterdir())


def test_a_killed_processs_copy_of_standard_input_is_removed(texts, tokenizer, tmp_path):
    stale = tmp_path / "out" / "tasks" / "1-stdin.jsonl"
    stale.parent.mkdir(parents=True)
    stale.write_text("{")
    shard(texts, tokenizer, tmp_path / "out")
    assert not stale.exists()


def test_standard_input_with_parts_is_refused(tokenizer, tmp_path):
    command = ["shard", "-", "--tokenizer", tokenizer.path, "--out", tmp_path / "out"]
    ran = run_command([*command, "--task", "0/2"])
    assert (ran.returncode, ran.stderr.count(b"\n")) == (2, 1)
    assert b"standard input (-) must be the only input, and not with --task" in ran.stderr


def test_standard_input_is_copied_to_a_file(tmp_path):
    content = b'{"text": "a"}\n' * 200_000  # More than one buffer.
    with standard_input(tmp_path, io.BytesIO(content)) as (source, _):
        assert Path(source.files[0].path).read_bytes() == content
        assert source.files[0].name == "stdin.jsonl"
    assert not list(tmp_path.iterdir())


def test_sentence_starts_mark_every_sentence(texts, tokenizer, tmp_path):
    texts = shutil.copytree(texts, tmp_path / "text")
    (texts / "0007.txt").write_text("今天下雨。我們回家！ Good. Yes?\nNo", encoding="utf-8")
    result = shard(texts, tokenizer, tmp_path / "out", sentences=True)
    documents = decoded(tmp_path / "out" / "train", tokenizer)
    manifest = load_manifest(tmp_path / "out" / "train")
    assert manifest.totals.sents == sum(len(split_sentences(text)) for text in documents)
    assert manifest.totals.tokens == result.tokens
    found = []
    with open_corpus(tmp_path / "out" / "train") as corpus:
        for pack in range(corpus.num_packs):
            starts = corpus.sentence_starts(pack).tolist()
            assert set(corpus.document_starts(pack).tolist()) <= set(starts)
            edges = [*starts, corpus.pack_range(pack)[1]]
            for start, stop in pairwise(edges):
                found.append(tokenizer.decode(corpus.read(start, stop)))
    # A space between two sentences belongs to the first word of the second.
    assert found == [part for text in documents for part in move_spaces(split_sentences(text))]
    assert "今天下雨。" in found


def test_a_corpus_with_sentences_is_read_by_plain_webdataset(texts, tokenizer, tmp_path):
    shard(texts, tokenizer, tmp_path / "out", sentences=True)
    tar = tmp_path / "out" / "train" / "tokens-000000.tar"
    for sample in webdataset.WebDataset(str(tar), shardshuffle=False).decode():
        assert sample["json"]["sents"] == len(sample["sents.npy"])
        assert sample["sents.npy"].dtype == np.int64


def test_a_tar_equals_one_written_by_webdataset(sharded, tmp_path):
    for tar in sorted((sharded / "train").glob("*.tar")):
        fixed = {"user": "bigtrain", "group": "bigtrain", "mode": 0o644, "mtime": 0}
        with tarfile.open(tar) as archive, (tmp_path / "copy.tar").open("wb") as file:
            packs: dict[str, dict[str, bytes]] = {}
            for member in archive:
                key, _, name = member.name.partition(".")
                packs.setdefault(key, {"__key__": key})[name] = archive.extractfile(member).read()
            with TarWriter(file, encoder=False, compress=False, **fixed) as writer:
                for pack in packs.values():
                    writer.write(pack)
        assert (tmp_path / "copy.tar").read_bytes() == tar.read_bytes()


def test_a_shuffle_keeps_every_document_and_changes_the_order(lines, tokenizer, tmp_path):
    for name, options in {
        "plain": {},
        "one": {"shuffle": True},
        "two": {"shuffle": True, "workers": 2},
        "other": {"shuffle": True, "seed": 1},
    }.items():
        shard(lines, tokenizer, tmp_path / name, reading=BODY, **options)
    plain, one, other = (
        decoded(tmp_path / n / "train", tokenizer) for n in ("plain", "one", "other")
    )
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")
    assert sorted(plain) == sorted(one) == sorted(other)
    assert len({tuple(plain), tuple(one), tuple(other)}) == 3
    stories = [int(re.search(r"\d+", text)[0]) for text in one]
    neighbours = sum(abs(a - b) == 1 for a, b in pairwise(stories))
    assert neighbours < 12


def test_a_shuffle_mixes_sources_and_each_keeps_its_count(texts, lines, tokenizer, tmp_path):
    copy = shutil.copytree(texts, tmp_path / "more")
    for path in copy.iterdir():
        path.write_text("More. " + path.read_text())
    inputs = [str(texts), str(copy)]
    options = ShardOptions(shuffle=True, **TINY)
    shard_corpus(inputs, tokenizer=tokenizer.path, out=tmp_path / "out", options=options)
    counts = {it.source: it.documents for it in load_manifest(tmp_path / "out" / "train").inputs}
    assert counts == {"stories/**": 60, "more/**": 60}
    tar = tmp_path / "out" / "train" / "tokens-000000.tar"
    packs = list(webdataset.WebDataset(str(tar), shardshuffle=False).decode())
    assert "more/**, stories/**" in {pack["json"]["source"] for pack in packs}


def test_a_shuffle_holds_at_most_its_buffer():
    waiting = most = 0

    def documents():
        nonlocal waiting, most
        for number in range(200):
            waiting += 10
            most = max(most, waiting)
            yield TokenDocument(np.full(10, number), None, "train", "")

    order = []
    for document in shuffled(documents(), Random(0), buffer_tokens=300):
        waiting -= 10
        order.append(int(document.tokens[0]))
    assert sorted(order) == list(range(200))
    assert order != sorted(order)
    assert most <= 310


def test_the_shuffled_plan_spreads_each_file_over_the_tasks(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.jsonl").write_bytes(b"{}\n" * 10_000)
    sources = find_sources([str(tmp_path)])
    plain = plan_tasks(sources, task_bytes=10_000)
    mixed = plan_tasks(sources, task_bytes=10_000, shuffle_seed=0)
    parts = [[part for task in tasks for part in task.parts] for tasks in (plain, mixed)]
    assert parts[0] != parts[1]
    assert set(parts[0]) == set(parts[1])


def test_equal_texts_stay_together_in_a_shuffled_job(lines, tokenizer, tmp_path):
    twice = tmp_path / "twice.jsonl"
    twice.write_text(lines.read_text() * 2)
    shard(twice, tokenizer, tmp_path / "out", reading=BODY, shuffle=True, **SPLIT)
    train, validation = (decoded(tmp_path / "out" / s, tokenizer) for s in ("train", "validation"))
    assert len(train) + len(validation) == 120
    assert not set(train) & set(validation)
    assert load_manifest(tmp_path / "out" / "train").validation_percent == 20


def test_an_invalid_line_stops_the_job_with_its_number_or_is_counted(lines, tokenizer, tmp_path):
    bad = tmp_path / "bad.jsonl"
    content = lines.read_text().splitlines(keepends=True)
    bad.write_text("".join([*content[:40], "{oops\n", *content[40:]]))
    with pytest.raises(InputError, match=r"bad\.jsonl line 41 \(byte \d+\) is not valid JSON"):
        shard(bad, tokenizer, tmp_path / "out", reading=BODY, workers=2)
    assert not (tmp_path / "out" / "train" / "manifest.json").exists()
    skip = ReadOptions(text_field="body", on_invalid="skip")
    result = shard(bad, tokenizer, tmp_path / "other", reading=skip)
    assert (result.documents, result.skipped_by_reason) == (60, {"invalid JSON": 1})


def test_a_stopped_job_resumes_by_the_remedy_in_the_message(lines, tokenizer, tmp_path):
    bad, out = tmp_path / "bad.jsonl", tmp_path / "out"
    long = '{"body": "' + "long " * 600 + '"}\n'
    bad.write_text(lines.read_text() + "{oops\n" + long)
    stop = ReadOptions(text_field="body", max_document_bytes=2000)
    skip = replace(stop, on_invalid="skip")
    with pytest.raises(InputError, match="leave such documents out with --on-invalid skip"):
        shard(bad, tokenizer, out, reading=stop)
    kept = {path: path.stat().st_ino for path in (out / "train").glob("*.tar")}
    assert kept
    shard(bad, tokenizer, tmp_path / "at once", reading=skip)
    shard(bad, tokenizer, out, reading=skip)
    assert tree_bytes(out) == tree_bytes(tmp_path / "at once")
    assert {path: path.stat().st_ino for path in kept} == kept
    with pytest.raises(InputError, match=r"job with other on_invalid \(skip → stop\)"):
        shard(bad, tokenizer, out, reading=stop)
    with pytest.raises(InputError, match=r"job with other max_document_bytes \(2000 → 9000\)"):
        shard(bad, tokenizer, out, reading=replace(skip, max_document_bytes=9000))


def test_a_job_that_stopped_at_a_long_line_resumes_with_a_higher_limit(lines, tokenizer, tmp_path):
    bad, out = tmp_path / "bad.jsonl", tmp_path / "out"
    bad.write_text(lines.read_text() + '{"body": "' + "long " * 600 + '"}\n')
    low = ReadOptions(text_field="body", max_document_bytes=2000)
    with pytest.raises(InputError, match="raise --max-document-mb"):
        shard(bad, tokenizer, out, reading=low)
    high = replace(low, max_document_bytes=9000)
    assert shard(bad, tokenizer, out, reading=high).documents == 61
    with pytest.raises(InputError, match=r"job with other max_document_bytes \(9000 → 2000\)"):
        shard(bad, tokenizer, out, reading=low)


def test_an_empty_split_is_found_before_any_work(texts, tokenizer, tmp_path):
    with pytest.raises(InputError, match="none of 60 documents would be in the validation"):
        shard(texts, tokenizer, tmp_path / "out", validation_percent=0.01)
    with pytest.raises(InputError, match=r"the train split: lower --validation-percent from 99\.9"):
        shard(texts, tokenizer, tmp_path / "out", validation_percent=99.99)
    assert not (tmp_path / "out").exists()


def test_another_tokenizer_is_refused_with_both_hashes(texts, tokenizer, sharded, tmp_path):
    out = shutil.copytree(sharded, tmp_path / "corpus")
    documents = [path.read_text() for path in sorted(texts.iterdir())]
    other = train_tokenizer(documents, tmp_path / "tokenizer.model", vocab_size=440)
    message = rf"other tokenizer \({tokenizer.sha256[:12]} → {other.sha256[:12]}\): nothing was"
    with pytest.raises(InputError, match=message):
        shard(texts, other, out, **SPLIT)
    assert tree_bytes(out) == tree_bytes(sharded)


def test_a_job_keeps_its_first_tokenizer(texts, tokenizer, sharded, tmp_path):
    swapped = tmp_path / "tokenizer.model"
    shutil.copy(tokenizer.path, swapped)
    out = tmp_path / "out"
    options = ShardOptions(**TINY, **SPLIT)
    shard_corpus([str(texts)], tokenizer=swapped, out=out, options=options)
    swapped.unlink()
    (out / "train" / "manifest.json").unlink()
    shard(texts, tokenizer, out, **SPLIT)
    assert tree_bytes(out) == tree_bytes(sharded)


def test_a_text_that_changes_during_the_job_is_detected(tokenizer, tmp_path, monkeypatch):
    texts = write_texts(tmp_path / "text", 40)
    import data_tools.sharding.shard_corpus as job

    def change_and_claim(*arguments):
        (texts / "0030.txt").write_text("changed under way")
        claim(*arguments)

    claim = job.claim_folder
    monkeypatch.setattr(job, "claim_folder", change_and_claim)
    with pytest.raises(InputError, match=r"0030\.txt changed while the job ran"):
        shard(texts, tokenizer, tmp_path / "out", task_bytes=500)
    assert not (tmp_path / "out" / "train" / "manifest.json").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_during_a_shard_damages_nothing(tokenizer, tmp_path, workers):
    texts, out = write_texts(tmp_path / "text", 60), tmp_path / "out"
    words = (texts / "0000.txt").read_text() * 300
    (texts / "zzzz.txt").write_text(words)
    command = ["shard", texts, "--tokenizer", tokenizer.path, "--out", out, "--workers", workers]
    command += ["--task-mb", "0.003"]
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))"
    ran = run_command(command, preparation=limit)
    assert ran.returncode == 1, ran.stderr.decode()
    message = ran.stderr.decode().splitlines()[-1]
    assert re.search(r"train/tokens-\d{6}\.tar: File too large: make room, then run the", message)
    assert b"Traceback" not in ran.stderr
    markers = (out / "tasks").glob("0*.json")
    finished = [out / "train" / f"tokens-{marker.stem}.tar" for marker in markers]
    assert finished
    assert not list(out.rglob("*.part"))
    times = [path.stat().st_mtime_ns for path in finished]
    run_command(command, check=True)
    assert times == [path.stat().st_mtime_ns for path in finished]
    shard(texts, tokenizer, tmp_path / "clean", pack_tokens=1 << 20)
    assert tree_bytes(out / "train") == tree_bytes(tmp_path / "clean" / "train")
