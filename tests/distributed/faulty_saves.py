"""Small runs, small disks, and ranks whose saves fail; for ``run_ranks``."""

import logging
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from bigtrain.checkpoint.commit import newest_complete
from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.save_errors import SaveError
from bigtrain.checkpoint.schema import COMMIT_FILE, STATE_FILE
from bigtrain.checkpoint.step_folders import committed_folders, step_of
from bigtrain.checkpoint.storage_folder import DiskFolder, Folder, UrlFolder
from bigtrain.config import RunConfig
from bigtrain.track.metrics_file import read_metrics
from tests.runs import merge, modification_times, tiny_config, train_rank

BOXES = "rank-00000.bin"


def small_config(corpus: Path, runs: Path, **sections: Any) -> RunConfig:
    """The config of a run of 2 layers and 8 steps, with checkpoints of steps 4 and 8."""
    values: dict[str, Any] = {
        "model": {**tiny_config(corpus, runs).model.model_dump(), "num_layers": 2},
        "train": {"steps": 8, "micro_batch_size": 8},
        "optim": {"decay_steps": 20},
        "validation": {"every": 1000},
        "checkpoint": {"every": 4},
    }
    return tiny_config(corpus, runs, **merge(values, sections))


def checkpoint_of(config: RunConfig, step: int) -> Path:
    """The folder of a run's checkpoint of a step."""
    return config.run_dir / "checkpoints" / f"step-{step:08d}"


def checkpoint_names(config: RunConfig) -> list[str]:
    """The names in the folder of a run's checkpoints."""
    return sorted(path.name for path in (config.run_dir / "checkpoints").iterdir())


def truncate_to_half(file: Path) -> None:
    """Cuts a file in half."""
    os.truncate(file, file.stat().st_size // 2)


def flip_bit(file: Path) -> None:
    """Flips a bit in the middle of a file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def steps_of(config: RunConfig) -> list[int]:
    """The steps in a run's metrics file."""
    return [line["step"] for line in read_metrics(config.run_dir / "metrics.jsonl", "train")]


def read_all(checkpoint: Folder) -> None:
    """Reads every box; raises if the bytes of a box differ from what was written."""
    table = CheckpointReader(checkpoint)
    boxes = [(key, box) for key, tensor in table.tensors.items() for box in tensor.boxes]
    assert len(list(table.read(boxes))) == len(boxes) > 0


class SmallDisk:
    """A file system in memory, of a few MB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def mount(self, options: str) -> None:
        """Mounts the disk, or mounts it again with other options."""
        mount = shutil.which("mount")
        if mount is None or os.geteuid() != 0:
            pytest.skip("only root may mount a small file system")
        command = [mount, "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")


def train_and_collect_log(config: RunConfig) -> tuple[str, list[str]]:
    """Trains; returns the final state, or the error's type and text, and the logged lines."""
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    logging.getLogger().addHandler(QueueHandler(records))
    logging.getLogger("bigtrain").setLevel(logging.INFO)
    try:
        outcome = train_rank(config).state
    except (RuntimeError, ValueError) as error:
        outcome = f"{type(error).__name__}: {error}"
    return outcome, [records.get().getMessage() for _ in range(records.qsize())]


def train_with_unreadable_boxes(config: RunConfig, error: BaseException) -> None:
    """Trains while every attempt to open a file of boxes for reading raises ``error``."""

    def opened(folder: DiskFolder, name: str) -> Any:
        raise error

    DiskFolder.opened = opened  # type: ignore[method-assign]
    train_rank(config)


def train_on_filling_disk(config: RunConfig, disk: Path) -> tuple[str, list[str]]:
    """Trains; the disk is full from the start of the save of step 4 until that save fails."""
    filler = disk / "filler"

    def audit(event: str, values: tuple[Any, ...]) -> None:
        if event == "os.mkdir" and "step-00000004.tmp-" in str(values[0]):
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    file.truncate(file.tell() - 100_000)
        if event == "shutil.rmtree" and "step-00000004.tmp-" in str(values[0]):
            filler.unlink(missing_ok=True)

    sys.addaudithook(audit)
    return train_and_collect_log(config)


def train_on_disk_turning_read_only(config: RunConfig, disk: SmallDisk) -> tuple[str, list[str]]:
    """Trains; the disk is read-only from the save of step 4 on."""

    def audit(event: str, values: tuple[Any, ...]) -> None:
        if event == "os.mkdir" and "step-00000004.tmp-" in str(values[0]):
            disk.mount("remount,ro")

    sys.addaudithook(audit)
    return train_and_collect_log(config)


def train_with_slow_copy(config: RunConfig) -> Any:
    """Trains; each copy into host memory takes longer than a step."""
    from bigtrain.checkpoint import snapshot

    copy_to_host = snapshot.copy_to_host

    def copy(pairs: Sequence[Any], device: Any) -> None:
        copy_to_host(pairs[:1], device)
        time.sleep(0.5)
        copy_to_host(pairs[1:], device)

    snapshot.copy_to_host = copy
    return train_rank(config)


def _saver_of(checkpoints: Folder, engine: Any, **policy: Any) -> Any:
    import torch

    from bigtrain.checkpoint.saver import Saver
    from bigtrain.config.sections import CheckpointConfig

    return Saver(
        checkpoints,
        engine,
        policy=CheckpointConfig(**policy),
        tokenizer=b"tokens",
        attempt=1,
        device=torch.device("cpu"),
    )


def _state(config: RunConfig, step: int) -> Any:
    from bigtrain.checkpoint.schema import TrainState

    return TrainState(step, 0, 0, step, [], config.model_dump(mode="json"), "")


def save_while_rank_1_cannot_write(checkpoints: Path) -> tuple[str, list[str], Any]:
    """Returns the error of a save, the names it leaves, and the error of the next save."""
    import torch.distributed as dist

    from tests.distributed.steps import engine_of, steps_config

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    config = steps_config(parallel={"zero": 1})
    with engine_of(config) as (engine, _, _):
        saver = _saver_of(DiskFolder(checkpoints), engine)
        if dist.get_rank() == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        saver.begin(_state(config, 1))
        saver._pending.task.wait()
        dist.barrier()
        # The next step does the same.
        saver.receive(saver._sum(saver.contribution()))
        [failed] = saver.pop_results()
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        saver.close()
        dist.barrier()
        names = sorted(path.name for path in checkpoints.iterdir())
        dist.barrier()
        return str(failed.error), names, saver.save(_state(config, 2)).error


def save_with_failures(place: Path) -> None:
    """Saves with failures after the commit, and saves the same step twice; for ``run_ranks``."""
    from bigtrain.checkpoint import saver as saver_module
    from tests.distributed.steps import engine_of, steps_config

    def fail_unexpectedly(*_: Any) -> None:
        raise RuntimeError("the disk hung up")

    config = steps_config()
    with engine_of(config) as (engine, _, _):
        for checkpoints in (DiskFolder(place / "disk"), UrlFolder(f"file://{place}/url")):
            saver = _saver_of(checkpoints, engine, keep_last=1)
            # Retention fails with an unexpected error.
            remove_old, saver_module.remove_old = saver_module.remove_old, fail_unexpectedly
            saver.save(_state(config, 1))
            saver_module.remove_old = remove_old
            saver.close()
            first, _ = newest_complete(checkpoints)
            read_all(first)

            # Saving the same step again changes nothing.
            before = modification_times(place)
            assert str(saver.save(_state(config, 1)).folder) == str(first)
            assert modification_times(place) == before

            # An incomplete checkpoint of the step is set aside, not deleted.
            truncate_to_half(Path(str(first).removeprefix("file://")) / STATE_FILE)
            assert saver.save(_state(config, 1)).error is None
            read_all(newest_complete(checkpoints)[0])
            aside = checkpoints.child("step-00000001.bad-1") if first.renames else first
            assert (COMMIT_FILE if first.renames else "COMMIT.bad-1.json") in aside.names()
            assert BOXES in aside.names()
            assert len(committed_folders(checkpoints)) == 1
            saver.save(_state(config, 2))
            assert [step_of(each) for each in committed_folders(checkpoints)] == [2]

        # The folder has its final name, but the fsync after the rename fails.
        disk = DiskFolder(place / "disk")
        disk.settle = fail_unexpectedly
        saver = _saver_of(disk, engine, keep_last=1)
        with pytest.raises(SaveError, match="step-00000003: not saved: rank 0: the disk hung up"):
            saver.save(_state(config, 3))
        read_all(disk.child("step-00000003"))
        assert disk.names() == ["step-00000001.bad-1", "step-00000002", "step-00000003"]
