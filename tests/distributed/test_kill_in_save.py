"""After `kill -9` at any moment of a save, committed checkpoints and the run's bits are intact.

A rank kills itself and the other rank when an event of a save happens for the n-th time:
a Python audit event (a file is opened, renamed, removed), a tensor copied, or a box written.
"""

import itertools
import os
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bigtrain.checkpoint.commit import newest_complete
from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.schema import COMMIT_FILE, KINDS
from bigtrain.checkpoint.step_folders import step_of
from bigtrain.checkpoint.storage_folder import DiskFolder
from bigtrain.config import RunConfig
from bigtrain.track.metrics_file import read_metrics
from tests.ranks import RankError, run_ranks
from tests.runs import hash_tensors, tiny_config, train_rank


@dataclass(frozen=True)
class Moment:
    """When a rank is killed: when ``what`` happens for the ``count``-th time in a save."""

    what: str
    count: int = 1
    save: int = 2
    """Which save of the attempt; in the second one there are earlier checkpoints to lose."""
    rank: int = 0
    commits: bool = False
    """Whether the checkpoint has its name by then."""


COPY = Moment("copy", 20)
BOX = Moment("box", 30)
PART_TABLE = Moment("open rank-00000.json")
HALF_COMMIT = Moment("half of COMMIT.json")
BEFORE_RENAME = Moment("rename the checkpoint")
AFTER_RENAME = Moment("open checkpoints", commits=True)
BEFORE_REMOVAL = Moment("rename for removal", commits=True)
IN_REMOVAL = Moment("remove a file", 2, commits=True)

QUICK = (COPY, BOX, HALF_COMMIT, BEFORE_RENAME, IN_REMOVAL)
ONE_RANK = (
    Moment("make the folder"),
    *(Moment("copy", count) for count in (1, 40)),
    Moment("open rank-00000.bin"),
    *(Moment("box", count) for count in (1, 60)),
    PART_TABLE,
    Moment("open tensors.json"),
    Moment("open state.json"),
    Moment("open COMMIT.json"),
    HALF_COMMIT,
    BEFORE_RENAME,
    AFTER_RENAME,
    BEFORE_REMOVAL,
    Moment("remove a file", 1, commits=True),
    IN_REMOVAL,
)
TWO_RANKS = (
    Moment("copy", 20, rank=1),
    Moment("open rank-00001.bin", rank=1),
    Moment("box", 10, rank=1),
    Moment("open rank-00001.json", rank=1),
    HALF_COMMIT,
    BEFORE_RENAME,
    AFTER_RENAME,
    IN_REMOVAL,
)


def train_until(config: RunConfig, moment: Moment, pids: Path) -> Any:
    """Runs ``train_rank``; all ranks are killed at a moment; for ``run_ranks``."""
    rank = os.environ["RANK"]
    (pids / rank).write_text(str(os.getpid()))
    if int(rank) == moment.rank:
        _Killer(moment, pids).watch()
    return train_rank(config)


class _Killer:
    """Counts the events of saves, and kills all ranks at the moment."""

    def __init__(self, moment: Moment, pids: Path) -> None:
        self._moment, self._pids = moment, pids
        self._saves = itertools.count(1)
        self._save = 0
        self._times = itertools.count(1)
        self._removes = False

    def watch(self) -> None:
        """Starts to count."""
        from bigtrain.checkpoint import snapshot, writing

        copy_to_host, crc32, write = snapshot.copy_to_host, writing.crc32, DiskFolder.write

        def copy(pairs: Sequence[Any], device: Any) -> None:
            if self._moment.rank:  # Only rank 0 makes the folder.
                self._save = next(self._saves)
            for pair in pairs:
                copy_to_host([pair], device)
                self._count("copy")

        def checksum(data: Any) -> int:
            self._count("box")
            return crc32(data)

        def write_half(folder: DiskFolder, name: str, content: bytes) -> None:
            if name == COMMIT_FILE and self._moment.what.startswith("half"):
                (folder.path / name).write_bytes(content[: len(content) // 2])
                self._count("half of COMMIT.json")
            write(folder, name, content)

        snapshot.copy_to_host, writing.crc32, DiskFolder.write = copy, checksum, write_half
        sys.addaudithook(self._audit)

    def _audit(self, event: str, values: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.mkdir", "os.remove"):
            return
        path = Path(os.fsdecode(values[0])) if isinstance(values[0], str | bytes | Path) else None
        if path is None or not (self._removes or "checkpoints" in path.parts):
            return
        if event == "os.mkdir" and ".tmp-" in path.name:
            self._save, self._removes = next(self._saves), False
            self._count("make the folder")
        elif event == "os.rename":
            self._removes = str(values[1]).endswith(".tmp-removed")
            self._count("rename for removal" if self._removes else "rename the checkpoint")
        elif event == "os.remove" and self._removes:
            self._count("remove a file")
        elif event == "open":
            self._count(f"open {path.name}")

    def _count(self, what: str) -> None:
        moment = self._moment
        matches = moment.what in (what, "anything") and self._save >= moment.save
        if matches and next(self._times) == moment.count:
            others = [int(each.read_text()) for each in self._pids.iterdir()]
            for process in sorted(others, key=lambda each: each == os.getpid()):
                os.kill(process, signal.SIGKILL)


def _config(corpus: Path, runs: Path, *, steps: int, ranks: int, **sections: Any) -> RunConfig:
    values = {
        "model": {**tiny_config(corpus, runs).model.model_dump(), "num_layers": 2, "dropout": 0.1},
        "train": {"steps": steps, "micro_batch_size": 4},
        "validation": {"every": 1000},
        "checkpoint": {"every": 1, "keep_last": 2},
        "parallel": {"device": "cpu", "zero": 1 if ranks == 2 else 0},
        **sections,
    }
    return tiny_config(corpus, runs, **values)


def _newest(config: RunConfig) -> int:
    """The step of the newest complete checkpoint, or 0; reads all of its boxes."""
    folder, _ = newest_complete(DiskFolder(config.run_dir / "checkpoints"))
    if folder is None:
        return 0
    table = CheckpointReader(folder)
    boxes = [(key, box) for key, tensor in table.tensors.items() for box in tensor.boxes]
    assert len(list(table.read(boxes))) == len(boxes) > 0
    return step_of(folder)


def _kill_and_compare(
    corpus: Path, runs: Path, moments: Sequence[Moment], *, ranks: int, steps: int
) -> None:
    """Kills a run at each of the moments in turn, and compares it with an uninterrupted run."""
    pids = runs / "pids"
    pids.mkdir()
    killed = _config(corpus, runs, steps=steps, ranks=ranks, name="killed")
    for moment in moments:
        before = _newest(killed)
        with pytest.raises(RankError, match="died without reporting an error"):
            run_ranks(train_until, ranks, killed, moment, pids)
        after = _newest(killed)
        assert after < steps, f"{moment}: the run has already finished"
        if moment.what == "anything":
            assert after >= before, moment
        else:
            # All saves before the interrupted one are there.
            assert after - before == moment.save - 1 + moment.commits, moment
    outcome = run_ranks(train_rank, ranks, killed)[0]
    assert (outcome.state, outcome.step) == ("finished", steps)

    uninterrupted = _config(corpus, runs, steps=steps, ranks=ranks, name="uninterrupted")
    run_ranks(train_rank, ranks, uninterrupted)
    last = f"checkpoints/step-{steps:08d}"
    assert hash_tensors(killed.run_dir / last, KINDS) == hash_tensors(
        uninterrupted.run_dir / last, KINDS
    )
    losses = [
        [(line["step"], line["loss"]) for line in read_metrics(file, "train")]
        for file in (run.run_dir / "metrics.jsonl" for run in (killed, uninterrupted))
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == steps
    names = sorted(path.name for path in (killed.run_dir / "checkpoints").iterdir())
    assert names == [f"step-{step:08d}" for step in (steps - 1, steps)]
    attempts = {int(path.stem.split("-")[-1]) for path in killed.run_dir.glob("config-attempt-*")}
    assert attempts == set(range(1, len(moments) + 2))


def test_a_run_killed_in_its_saves_ends_in_the_same_bits(corpus: Path, tmp_path: Path) -> None:
    _kill_and_compare(corpus, tmp_path, QUICK, ranks=1, steps=10)


@pytest.mark.slow
def test_a_run_killed_in_every_phase_and_at_random_ends_in_the_same_bits(
    corpus: Path, tmp_path: Path
) -> None:
    chance = random.Random(5)
    at_random = [Moment("anything", chance.randint(1, 300), save=1) for _ in range(6)]
    moments = [*ONE_RANK, *at_random]
    _kill_and_compare(corpus, tmp_path, moments, ranks=1, steps=40)


@pytest.mark.slow
def test_two_ranks_killed_in_their_saves_end_in_the_same_bits(corpus: Path, tmp_path: Path) -> None:
    _kill_and_compare(corpus, tmp_path, TWO_RANKS, ranks=2, steps=16)
