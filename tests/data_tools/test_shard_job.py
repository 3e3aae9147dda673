"""The sharding job gives the same bytes after kills and repeats, and changes no other folders."""

import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from data_tools.corpus import open_corpus
from data_tools.errors import InputError
from data_tools.jobs.output_folder import only_writer
from data_tools.manifest import load_manifest
from data_tools.reading.text_sources import find_sources
from data_tools.sharding.plan_tasks import plan_tasks
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from data_tools.verify_corpus import verify_corpus
from tests.data_tools.small_texts import tree_bytes, write_texts

TINY = {"task_bytes": 3000, "pack_tokens": 100, "validation_percent": 20}


def shard(texts: Path, tokenizer, out: Path, *, workers: int = 1, **options):
    chosen = ShardOptions(**{**TINY, **options})
    path = tokenizer.path
    return shard_corpus([str(texts)], tokenizer=path, out=out, options=chosen, workers=workers)


def test_one_and_two_workers_give_the_same_bytes(texts, tokenizer, sharded, tmp_path):
    result = shard(texts, tokenizer, tmp_path / "other name", workers=2)
    assert tree_bytes(tmp_path / "other name") == tree_bytes(sharded)
    assert result.documents == 60
    assert result.tokens_per_second > 0


def kill_at_rename(number: int, texts: Path, tokenizer, out: Path) -> None:
    seen = 0

    def watch(event: str, _: tuple) -> None:
        nonlocal seen
        if event == "os.rename":
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    shard(texts, tokenizer, out)


@pytest.mark.parametrize("rename", range(1, 21))
def test_a_job_killed_before_any_rename_resumes_to_the_same_bytes(
    texts, tokenizer, sharded, tmp_path, rename
):
    out = tmp_path / "corpus"
    arguments = (rename, texts, tokenizer, out)
    process = multiprocessing.get_context("fork").Process(target=kill_at_rename, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (out / "validation" / "manifest.json").exists()  # The last file that a job writes.
    shard(texts, tokenizer, out)
    assert tree_bytes(out) == tree_bytes(sharded)


def test_repeating_a_finished_job_does_nothing_and_says_so(texts, tokenizer, sharded, tmp_path):
    out = shutil.copytree(sharded, tmp_path / "corpus")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.name != ".lock"}
    again = shard(texts, tokenizer, out)
    assert again.already_done
    assert again.documents == 60
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_a_lost_tar_is_made_again(texts, tokenizer, sharded, tmp_path):
    out = shutil.copytree(sharded, tmp_path / "corpus")
    (out / "train" / "tokens-000001.tar").unlink()
    assert not shard(texts, tokenizer, out).already_done
    assert tree_bytes(out) == tree_bytes(sharded)


def test_a_damaged_tar_of_the_same_size_is_repaired_by_the_remedy_of_verify(
    texts, tokenizer, sharded, tmp_path
):
    out = shutil.copytree(sharded, tmp_path / "corpus")
    tar = out / "train" / "tokens-000001.tar"
    content = bytearray(tar.read_bytes())
    content[len(content) // 2] ^= 1
    tar.write_bytes(content)
    assert shard(texts, tokenizer, out).already_done
    (line,) = (fault.line for fault in verify_corpus(out / "train", "full").faults)
    assert line.endswith("or delete it and run the same `bigtrain data shard` again")
    tar.unlink()
    shard(texts, tokenizer, out)
    assert tree_bytes(out) == tree_bytes(sharded)


def test_another_job_in_the_same_folder_is_refused(texts, tokenizer, sharded, tmp_path):
    out = shutil.copytree(sharded, tmp_path / "corpus")
    with pytest.raises(
        InputError, match=r"job with other pack_tokens \(100 → 50\): nothing was changed"
    ):
        shard(texts, tokenizer, out, pack_tokens=50)
    changed = shutil.copytree(texts, tmp_path / "stories")
    (changed / "0003.txt").write_text("something else")
    with pytest.raises(
        InputError, match=r"other text \(\w{12} → \w{12}\): .* left out, such as \.tar"
    ):
        shard(changed, tokenizer, out)
    assert tree_bytes(out) == tree_bytes(sharded)


def test_a_folder_that_is_not_a_job_is_refused(texts, tokenizer, tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="exists already, from an unknown job"):
        shard(texts, tokenizer, tmp_path)


def test_a_second_writer_is_refused(texts, tokenizer, tmp_path):
    with only_writer(tmp_path), pytest.raises(InputError, match="another process is writing"):
        shard(texts, tokenizer, tmp_path)


def test_equal_texts_are_always_in_the_same_split(tokenizer, tmp_path):
    texts = write_texts(tmp_path / "text", 40)
    for path in list(texts.iterdir()):
        shutil.copy(path, texts / f"copy {path.name}")
    shard(texts, tokenizer, tmp_path / "out", validation_percent=50)
    found = {}
    for split in ("train", "validation"):
        with open_corpus(tmp_path / "out" / split) as corpus:
            found[split] = [tokenizer.decode(ids) for ids in corpus.documents()]
    assert not set(found["train"]) & set(found["validation"])
    assert all(documents.count(d) == 2 for documents in found.values() for d in documents)
    assert len(found["train"]) > 20
    assert len(found["validation"]) > 20


def test_the_seed_chooses_another_validation_split(texts, tokenizer, sharded, tmp_path):
    shard(texts, tokenizer, tmp_path / "out", seed=1)
    ours, theirs = (load_manifest(f / "validation") for f in (tmp_path / "out", sharded))
    assert ours.shards != theirs.shards


def test_the_manifest_counts_its_inputs_and_has_no_absolute_paths(sharded, texts, tokenizer):
    splits = [load_manifest(sharded / split) for split in ("train", "validation")]
    assert sum(manifest.num_documents for manifest in splits) == 60
    assert splits[0].inputs[0].source == "stories/**"
    assert splits[0].inputs[0].bytes == sum(path.stat().st_size for path in texts.iterdir())
    assert splits[0].tokenizer.sha256 == tokenizer.sha256
    assert str(texts.parent) not in (sharded / "train" / "manifest.json").read_text()


def test_unreadable_and_empty_files_are_skipped_and_counted(tokenizer, tmp_path):
    texts = write_texts(tmp_path / "text", 5)
    (texts / "empty.txt").write_bytes(b"")
    (texts / "latin.txt").write_bytes("café".encode("latin-1"))
    result = shard(texts, tokenizer, tmp_path / "out", validation_percent=0)
    assert (result.documents, result.skipped) == (5, 2)
    assert load_manifest(tmp_path / "out" / "train").inputs[0].skipped == 2
    assert not (tmp_path / "out" / "validation").exists()


def test_empty_corpora_and_splits_are_refused_with_a_remedy(tokenizer, tmp_path):
    texts = write_texts(tmp_path / "text", 2)
    with pytest.raises(InputError, match=r"validation split: raise --validation-percent from 0.01"):
        shard(texts, tokenizer, tmp_path / "out", validation_percent=0.01)
    assert not (tmp_path / "out" / "train" / "manifest.json").exists()
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "a.txt").write_bytes(b"")
    with pytest.raises(InputError, match=r"no document in the text \(1 empty\)"):
        shard(tmp_path / "hollow", tokenizer, tmp_path / "other")


def test_tasks_depend_only_on_the_text_and_hold_every_file_once(texts):
    sources = find_sources([str(texts)])
    tasks = plan_tasks(sources, task_bytes=1000)
    assert [part.piece.file for task in tasks for part in task.parts] == list(sources[0].files)
    assert all(task.bytes >= 1000 for task in tasks[:-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_percent": 100}, "validation percent 100"),
        ({"workers": 0}, "workers 0"),
        ({"name": "a/b"}, "must be a plain word"),
        ({"pack_tokens": 0}, "pack 0"),
    ],
)
def test_impossible_options_are_refused(texts, tokenizer, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        shard(texts, tokenizer, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
