"""A sharding job may run in parts on several machines, and is sealed when all are done."""

import json
import multiprocessing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_tools.cli import app
from data_tools.errors import InputError
from data_tools.jobs.array_part import ArrayPart
from data_tools.jobs.output_folder import only_writer
from data_tools.jobs.task_locks import lock_tasks
from data_tools.sharding.shard_corpus import seal_corpus, shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from tests.data_tools.small_texts import tree_bytes

TINY = {"task_bytes": 1000, "pack_tokens": 100, "validation_percent": 20}


def shard(
    texts: Path,
    tokenizer,
    out: Path,
    part: tuple[int, int] | None = None,
    *,
    workers: int = 1,
    **options,
):
    return shard_corpus(
        [str(texts)],
        tokenizer=tokenizer.path,
        out=out,
        options=ShardOptions(**{**TINY, **options}),
        workers=workers,
        part=ArrayPart(*part) if part else None,
    )


@pytest.fixture(scope="module")
def complete(tmp_path_factory, texts, tokenizer) -> Path:
    """The corpus of the same job without parts."""
    out = tmp_path_factory.mktemp("complete") / "corpus"
    shard(texts, tokenizer, out)
    return out


def number_of_tasks(out: Path) -> int:
    count: int = json.loads((out / "tasks" / "job.json").read_text())["tasks"]
    return count


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_parts_and_a_seal_give_the_bytes_of_one_job(texts, tokenizer, complete, tmp_path, order):
    out = tmp_path / "corpus"
    for index in order:
        result = shard(texts, tokenizer, out, (index, 3))
        assert 0 < result.tasks < result.tasks_of_job
        assert not (out / "train" / "manifest.json").exists()
    sealed = seal_corpus(out)
    assert tree_bytes(out) == tree_bytes(complete)
    assert (sealed.documents, sealed.tasks) == (60, number_of_tasks(out))
    assert seal_corpus(out).already_done


def test_concurrent_parts_give_the_bytes_of_one_job(texts, tokenizer, complete, tmp_path):
    out = tmp_path / "corpus"
    fork = multiprocessing.get_context("fork")
    parts = [fork.Process(target=shard, args=(texts, tokenizer, out, (i, 4))) for i in range(4)]
    for process in parts:
        process.start()
    for process in parts:
        process.join()
    assert [process.exitcode for process in parts] == [0] * 4
    seal_corpus(out)
    assert tree_bytes(out) == tree_bytes(complete)


def test_repeating_a_part_with_workers_does_nothing(texts, tokenizer, tmp_path):
    assert not shard(texts, tokenizer, tmp_path / "out", (1, 2), workers=2).already_done
    before = tree_bytes(tmp_path / "out")
    assert shard(texts, tokenizer, tmp_path / "out", (1, 2)).already_done
    assert tree_bytes(tmp_path / "out") == before


def test_more_parts_than_tasks_leave_some_with_nothing_to_do(texts, tokenizer, tmp_path):
    result = shard(texts, tokenizer, tmp_path / "out", (99, 100))
    assert (result.tasks, result.already_done) == (0, True)


def test_a_seal_names_the_missing_tars_and_the_command_for_them(texts, tokenizer, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"no sharding job in .*: start one with `bigtrain"):
        seal_corpus(out)
    assert not out.exists()
    shard(texts, tokenizer, out, (0, 2))
    tasks = number_of_tasks(out)
    error = (
        rf"lacks {tasks // 2} of {tasks} tars \(000001, 000003.*\): .* again with --task 1/2, or"
    )
    with pytest.raises(InputError, match=error):
        seal_corpus(out)
    assert not (out / "train" / "manifest.json").exists()
    shard(texts, tokenizer, out, (1, 2))  # The command in the message.
    (out / "train" / "tokens-000002.tar").write_bytes(b"cut short")
    with pytest.raises(InputError, match=rf"lacks 1 of {tasks} tars \(000002\): .* --task 0/2, or"):
        seal_corpus(out)
    shard(texts, tokenizer, out, (0, 2))
    assert seal_corpus(out).tasks == tasks


def test_a_job_without_parts_finishes_the_tasks_of_parts(texts, tokenizer, complete, tmp_path):
    out = tmp_path / "corpus"
    shard(texts, tokenizer, out, (1, 3))
    shard(texts, tokenizer, out)
    assert tree_bytes(out) == tree_bytes(complete)


def test_a_part_of_another_job_is_refused(texts, tokenizer, tmp_path):
    shard(texts, tokenizer, tmp_path / "out", (0, 2))
    with pytest.raises(InputError, match=r"job with other pack_tokens \(100 → 50\)"):
        shard(texts, tokenizer, tmp_path / "out", (1, 2), pack_tokens=50)


def hold_tasks(out: Path, numbers, ready, done) -> None:
    with lock_tasks(out / "tasks", numbers):
        ready.set()
        done.wait()


@pytest.fixture
def held(tmp_path):
    """A folder in which another process works on tasks 0 and 2."""
    fork = multiprocessing.get_context("fork")
    ready, done = fork.Event(), fork.Event()
    process = fork.Process(target=hold_tasks, args=(tmp_path / "out", [0, 2], ready, done))
    process.start()
    assert ready.wait(60)
    yield tmp_path / "out"
    done.set()
    process.join()


def test_while_a_part_runs_only_other_parts_may_start(texts, tokenizer, held):
    with pytest.raises(InputError, match="another process is running task 0 of"):
        shard(texts, tokenizer, held, (0, 2))
    with pytest.raises(InputError, match="another process is running task 2 of"):
        shard(texts, tokenizer, held, (2, 3))  # The number of parts may differ.
    with pytest.raises(InputError, match="another process is writing to"):
        shard(texts, tokenizer, held)
    shard(texts, tokenizer, held, (1, 2))
    with pytest.raises(InputError, match="another process is writing to"):
        seal_corpus(held)


def test_a_part_does_not_remove_files_that_other_parts_are_writing(texts, tokenizer, held):
    shard(texts, tokenizer, held, (3, 4))
    ours, theirs = (held / "train" / f".tokens-{n:06d}.tar.123.part" for n in (1, 2))
    for part in (ours, theirs):
        part.write_bytes(b"half")
    shard(texts, tokenizer, held, (1, 4))
    assert not ours.exists()
    assert theirs.exists()


def test_a_part_is_refused_while_the_full_job_runs(texts, tokenizer, tmp_path):
    with only_writer(tmp_path), pytest.raises(InputError, match="another process is writing"):
        shard(texts, tokenizer, tmp_path, (0, 2))


def test_the_commands_report_the_remaining_tasks(texts, tokenizer, tmp_path):
    def run(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception:
            raise result.exception
        return result.output

    out = tmp_path / "out"
    command = ("shard", texts, "--tokenizer", tokenizer.path, "--out", out, "--task-mb", 0.001)
    said = run(*command, "--task", "0/2")
    assert f"when all parts are done: bigtrain data seal {out}" in said
    run(*command, "--task", "1/2")
    with pytest.raises(InputError, match=f"array, run `bigtrain data seal {out}`"):
        run("inspect", out / "train")
    assert "60 documents (60 train), " in run("seal", out)
    assert "already sealed" in run("seal", out)
    for wrong in ("2/2", "half", "1", "-1/2"):
        with pytest.raises(InputError, match="--task"):
            run(*command, f"--task={wrong}")
