"""A run reports each phase, step and validation batch to its launcher."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import RunConfig
from bigtrain.health.heartbeat import Heartbeat
from tests.bigtrain.health.test_heartbeat import Receiver
from tests.ranks import run_ranks
from tests.runs import tiny_config, train_rank


def _train_with_heartbeats(config: RunConfig, folder: Path) -> None:
    rank = int(os.environ["RANK"])
    train_rank(config, heartbeat=Heartbeat(folder / f"beats-{rank}", rank=rank))


def _shorten(beats: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(beat["phase"], beat["step"]) for beat in beats]


@contextmanager
def _reading(receivers: list[Receiver]) -> Iterator[None]:
    """Reads from sockets all the time, as a launcher does: they hold ten datagrams."""
    ended = threading.Event()

    def read() -> None:
        while not ended.wait(0.001):
            for receiver in receivers:
                receiver.keep()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        ended.set()
        reader.join()


def test_all_ranks_report_phases_steps_and_validation_batches(corpus: Path, tmp_path: Path) -> None:
    receivers = [Receiver(tmp_path / f"beats-{rank}") for rank in (0, 1)]
    config = tiny_config(
        corpus,
        tmp_path,
        train={"steps": 4},
        validation={"every": 4, "samples": 16},
        checkpoint={"every": 4},
    )
    with _reading(receivers):
        run_ranks(_train_with_heartbeats, 2, config, tmp_path)
    for rank, receiver in enumerate(receivers):
        beats = receiver.received()
        assert _shorten(beats) == [
            *(("connect", 0), ("load", 0), ("train", 0)),
            *(("train", step) for step in (1, 2, 3, 4)),
            *(("validate", 4) for _ in range(1 + 2)),  # Two batches.
            *(("train", 4), ("save", 4), ("train", 4), ("end", 4)),
        ]
        assert {beat["rank"] for beat in beats} == {rank}
        assert beats[2]["seconds"] is None
        assert beats[-1]["seconds"] > 0
        receiver.close()


def test_a_resumed_run_reports_the_steps_taken_before(corpus: Path, tmp_path: Path) -> None:
    first = tiny_config(corpus, tmp_path, train={"steps": 3}, optim={"decay_steps": 4})
    run_ranks(train_rank, 1, first)
    receiver = Receiver(tmp_path / "beats-0")
    run_ranks(
        _train_with_heartbeats, 1, tiny_config(corpus, tmp_path, train={"steps": 4}), tmp_path
    )
    assert ("train", 3) in _shorten(receiver.received())
    receiver.close()


@pytest.mark.parametrize("command", ["train-rank", "train"])
def test_the_first_heartbeat_comes_before_the_config_is_read(tmp_path: Path, command: str) -> None:
    receiver = Receiver(tmp_path / "beats")
    stacks = tmp_path / "stacks.txt"
    supervision = {
        "BIGTRAIN_HEARTBEAT_SOCKET": str(receiver.file),
        "BIGTRAIN_STACKS_FILE": str(stacks),
    }
    done = subprocess.run(
        [sys.executable, "-m", "bigtrain.cli", command, str(tmp_path / "nowhere.yaml")],
        capture_output=True,
        text=True,
        env={**os.environ, **supervision, "RANK": "3", "WORLD_SIZE": "8"},
    )
    assert done.returncode == 2
    assert "nowhere.yaml" in done.stderr
    assert _shorten(receiver.received()) == [("start", 0)]
    assert stacks.read_text().startswith("rank 3, process ")
    receiver.close()
