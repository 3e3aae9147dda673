"""One or more Ctrl-C end a job quickly and quietly, and the same command resumes it."""

import multiprocessing
import multiprocessing.util
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from data_tools.cleaning.clean_corpus import clean_corpus
from data_tools.errors import InputError
from data_tools.jobs.workers import open_pool, run_each
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from tests.data_tools.cleaning.documents import make_config, random_prose, write_json_lines
from tests.data_tools.small_texts import tree_bytes

ROOT = str(Path(__file__).parents[2])
STOPPED = "bigtrain: stopped; run the same command again to continue\n"
TASK_BYTES = 8000


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    rng = random.Random(0)
    records = [{"text": random_prose(rng)} for _ in range(450)]
    return write_json_lines(tmp_path_factory.mktemp("pages") / "pages.jsonl", records)


def interrupt(command: list, out: Path, name: str) -> tuple[int, str]:
    """Interrupts a command twice once files `name` exist; tries again if it finished before."""
    for _ in range(5):
        found = _interrupt_once(command, out, name)
        if found[0]:
            return found
        shutil.rmtree(out)
    raise AssertionError("the job was always quicker than the signal")


def _interrupt_once(command: list, out: Path, name: str) -> tuple[int, str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bigtrain.cli", "data", *map(str, command)],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not any(out.glob(name)) and process.poll() is None:
            time.sleep(0.002)
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
        errors = process.communicate(timeout=10)[
            1
        ]  # Also waits for workers, which keep the pipe open.
    finally:
        process.kill()
    return process.returncode, errors


def test_cleaning_interrupted_twice_in_three_phases_resumes_to_the_same_bytes(pages, tmp_path):
    expected, out = tmp_path / "expected", tmp_path / "out"
    clean_corpus(make_config(pages, expected, task_mb=TASK_BYTES / 1e6))
    recipe = tmp_path / "clean.yaml"
    recipe.write_text(f"inputs: ['{pages}']\nout: '{out}'\n")
    command = ["clean", recipe, f"task_mb={TASK_BYTES / 1e6}", "workers=2"]
    for name in (".tasks/job.json", ".tasks/*.scan.json", "part-*"):
        assert interrupt(command, out, name) == (130, STOPPED)
        assert not (out / "report.json").exists()
    clean_corpus(make_config(pages, out, task_mb=TASK_BYTES / 1e6))
    assert tree_bytes(out) == tree_bytes(expected)


def test_sharding_interrupted_twice_in_two_phases_resumes_to_the_same_bytes(
    pages, tokenizer, tmp_path
):
    expected, out = tmp_path / "expected", tmp_path / "out"

    def shard(folder: Path):
        options = ShardOptions(task_bytes=TASK_BYTES)
        return shard_corpus([str(pages)], tokenizer=tokenizer.path, out=folder, options=options)

    shard(expected)
    command = ["shard", pages, "--tokenizer", tokenizer.path, "--out", out, "--workers", 2]
    command += ["--task-mb", TASK_BYTES / 1e6]
    for name in ("tasks/job.json", "tasks/0*.json"):
        assert interrupt(command, out, name) == (130, STOPPED)
        assert not (out / "train" / "manifest.json").exists()
    shard(out)
    assert tree_bytes(out) == tree_bytes(expected)


def refuse_odd_numbers(number: int) -> int:
    if number % 2:
        raise InputError(f"{number} is odd")
    return number


def sleep_or_die(number: int) -> None:
    if not number:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3600)


def test_an_error_in_one_worker_ends_the_others_and_keeps_its_traceback():
    with open_pool(2) as pool, pytest.raises(InputError, match="7 is odd") as error:
        dict(run_each(refuse_odd_numbers, [0, 2, 4, 6, 7], pool=pool))
    assert "refuse_odd_numbers" in error.value.__notes__[0]


def test_a_killed_worker_is_reported_without_waiting_for_the_others():
    with pytest.raises(ChildProcessError, match="a worker process was killed"):  # noqa: SIM117
        with open_pool(2) as pool:
            dict(run_each(sleep_or_die, [0, 1], pool=pool))


def test_an_interrupt_while_a_worker_starts_leaves_no_process(monkeypatch, capfd):
    resource_tracker.ensure_running()  # Started first, because it starts the same way as workers.
    start, started = multiprocessing.util.spawnv_passfds, []

    def start_and_interrupt(*args):
        started.append(pid := start(*args))
        os.kill(os.getpid(), signal.SIGINT)  # This thread blocks it; another receives it.
        time.sleep(0.05)
        return pid

    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", start_and_interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt), open_pool(2) as pool:
            dict(run_each(len, ["x", "yy"], pool=pool))
    finally:
        signal.signal(signal.SIGINT, before)
        ended.set()
        other.join()
    with pytest.raises(ChildProcessError):  # The pool has already waited for the worker.
        os.waitpid(started[0], 0)
    assert capfd.readouterr().err == ""


def test_workers_are_reused():
    with open_pool(2) as pool:
        first = dict(run_each(os.path.basename, ["a/b", "c/d", "e/f"], pool=pool))
        assert first == {"a/b": "b", "c/d": "d", "e/f": "f"}
        assert dict(run_each(len, ["x", "yy"], pool=pool)) == {"x": 1, "yy": 2}
        assert list(run_each(len, [], pool=pool)) == []
