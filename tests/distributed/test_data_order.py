"""Ranks that are killed and restarted in another number read the same samples in each step."""

import hashlib
import json
import multiprocessing
import random
import time
from collections import defaultdict
from itertools import chain
from multiprocessing.context import ForkProcess
from pathlib import Path

from bigtrain.config import RunConfig
from bigtrain.config.layout import Layout
from bigtrain.data.batches import TrainingData
from tests.runs import tiny_config

BATCH, STEPS = 24, 40


def _config(corpus: Path, workers: int) -> RunConfig:
    train = {"global_batch_size": BATCH, "micro_batch_size": 1}
    return tiny_config(corpus, Path("unused"), train=train, data={"workers": workers})


def read_steps(config: RunConfig, copies: int, rank: int, first: int, log: Path) -> None:
    """Reads the batches of one rank step by step, and logs a hash of each row."""
    data = TrainingData(config, layout=Layout(data=copies), data_rank=rank)
    with log.open("a") as file:
        for step in range(first, STEPS):
            rows = [
                hashlib.sha256(row.numpy().tobytes()).hexdigest()
                for microbatch in data.batch(step * BATCH).microbatches
                for row in microbatch.tokens
            ]
            file.write(json.dumps({"step": step, "rows": rows}) + "\n")
            file.flush()
            time.sleep(0.002)  # A step takes time, so that kills can hit any step.
    data.close()


def _start(config: RunConfig, copies: int, first: int, folder: Path) -> list[ForkProcess]:
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(
            target=read_steps, args=(config, copies, rank, first, folder / f"{first}-{rank}.jsonl")
        )
        for rank in range(copies)
    ]
    for rank in ranks:
        rank.start()
    return ranks


def _hash_of_steps(folder: Path, ranks: int) -> dict[int, str]:
    """One hash of the samples of each step that all ranks have read."""
    rows: dict[int, list[list[str]]] = defaultdict(list)
    for log in sorted(folder.glob("*.jsonl")):
        for line in log.read_text().splitlines(keepends=True):
            if line.endswith("\n"):  # A kill may truncate the last line.
                event = json.loads(line)
                rows[event["step"]].append(event["rows"])
    return {
        step: hashlib.sha256("".join(sorted(chain(*shares))).encode()).hexdigest()
        for step, shares in rows.items()
        if len(shares) == ranks
    }


def _wait(ranks: list[ForkProcess]) -> None:
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0


def test_every_number_of_ranks_reads_the_same_samples_in_each_step(
    corpus: Path, tmp_path: Path
) -> None:
    found = {}
    for copies, workers in [(1, 0), (2, 1), (3, 3), (4, 0), (6, 1), (8, 1)]:
        folder = tmp_path / str(copies)
        folder.mkdir()
        _wait(_start(_config(corpus, workers), copies, 0, folder))
        found[copies] = _hash_of_steps(folder, copies)
    assert len(found[1]) == STEPS
    assert len(set(found[1].values())) == STEPS
    assert all(steps == found[1] for steps in found.values())


def test_killed_ranks_restarted_in_another_number_continue_with_the_same_samples(
    corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "uninterrupted").mkdir()
    _wait(_start(_config(corpus, 0), 1, 0, tmp_path / "uninterrupted"))
    expected = _hash_of_steps(tmp_path / "uninterrupted", 1)
    chance, first, seen = random.Random(5), 0, {}
    for attempt, (copies, workers) in enumerate([(2, 1), (4, 0), (3, 3), (8, 1)]):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        ranks = _start(_config(corpus, workers), copies, first, folder)
        if attempt < 3:
            target = first + chance.randint(3, 9)
            while target not in _hash_of_steps(folder, copies):
                assert any(rank.is_alive() for rank in ranks)
            for rank in ranks:
                rank.kill()
        for rank in ranks:
            rank.join()
        read = _hash_of_steps(folder, copies)
        assert read
        assert {step: expected[step] for step in read} == read
        seen |= read
        first = max(read) - 1  # Resume one step back, as from a checkpoint.
    assert seen == expected
